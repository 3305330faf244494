"""The experiments: one package a task, and what they share."""

from pathlib import Path

# Of the checkout: configurations and published results lie beside this package.
ROOT = Path(__file__).resolve().parents[1]
