"""Adaptation between two domains: Office-31."""

from tasks.adaptation.module import TASK, Adaptation, main

__all__ = ["TASK", "Adaptation", "main"]
