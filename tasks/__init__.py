"""The experiments: one package a task, and what they share."""

from importlib import import_module
from pathlib import Path
from typing import Any

# Of the checkout: configurations and published results lie beside this package.
ROOT = Path(__file__).resolve().parents[1]


def all_tasks() -> dict[str, Any]:
    """Every task's module class by the task's name."""
    found = sorted(Path(__file__).parent.glob("*/module.py"))
    return {path.parent.name: task_of(path.parent.name) for path in found}


def task_of(name: str) -> Any:
    """The module class of the task `name`, which says what the engine, tables and report must know.

    They ask it, and its data's classes; none of them knows a task by name.
    """
    return import_module(f"tasks.{name}").TASK
