"""The experiments: one package a task, and what they share."""

from importlib import import_module
from pathlib import Path
from typing import Any

# Of the checkout: configurations and published results lie beside this package.
ROOT = Path(__file__).resolve().parents[1]


def task_of(name: str) -> Any:
    """The module class of the task `name`, which says what the engine, tables and report must know.

    They ask it, and its data's classes; none of them knows a task by name.
    """
    return import_module(f"tasks.{name}").TASK
