"""Sentiment across domains: IMDb to SST-2."""

from tasks.text.module import TASK, Text, main

__all__ = ["TASK", "Text", "main"]
