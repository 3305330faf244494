"""FixMatch: few labels and many unlabelled images."""

from tasks.fixmatch.module import TASK, FixMatch, main

__all__ = ["TASK", "FixMatch", "main"]
