"""Engine, runs, tables and report ask tasks and data sets, and know none of them by name."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from jsonargparse import ArgumentParser

from tasks import all_tasks
from tasks.engine.base import CNSNModule
from tasks.runs.recipe import Neutral, measured_of, recipe_of

FOLDERS = ("engine", "runs", "tables", "report")
DATA = ("classification", "imagenet", "fixmatch", "segmentation", "text", "domains")
# `text` is a word of every program: as a task it stands alone in quotes, or in a path.
PLAIN = {"text"}
ARGUED = {
    # The title of the paper that it is from.
    ("tasks/engine/adabn.py", "adaptation"),
    # Which command makes a published file, whoever has it: benchmarks are in the list, too.
    ("tasks/tables/readme.py", "tasks.text"),
    # The tag of SVG.
    ("tasks/report/charts.py", '"text"'),
}


def sets() -> dict[str, type]:
    """The data modules of all packages by path."""
    found = {}
    for package in DATA:
        module = import_module(f"data.{package}")
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, L.LightningDataModule):
                found[f"data.{package}.{name}"] = kind
    return found


def named(source: str) -> set[str]:
    """The tasks, and the classes of tasks and data sets, that a file names."""
    words = "|".join(set(all_tasks()) - PLAIN)
    paths = "|".join({*all_tasks(), *DATA})
    classes = {task.__name__ for task in all_tasks().values()} | {
        k.__name__ for k in sets().values()
    }
    found = set(re.findall(rf"\b(?:{words})\b", source.lower()))
    found |= set(re.findall(rf"\b(?:tasks|data)\.(?:{paths})\b", source))
    found |= set(re.findall(rf"[\"'](?:{'|'.join(PLAIN)})[\"']", source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("tasks", "data"):
            found |= {alias.name for alias in node.names} & {*all_tasks(), *DATA}
        for name in (getattr(node, "id", None), getattr(node, "attr", None)):
            found |= {name} & classes if name else set()
        if isinstance(node, ast.Constant) and node.value in classes:
            found.add(str(node.value))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_names_a_task(root: Path, folder: str) -> None:
    files = sorted((root / "tasks" / folder).rglob("*.py"))
    assert files
    for path in files:
        file = path.relative_to(root).as_posix()
        assert {(file, name) for name in named(path.read_text())} <= ARGUED


@pytest.mark.parametrize(
    "source",
    [
        "if task == 'fixmatch': pass",
        "# as in segmentation",
        "kind == 'text'",
        "from tasks import text",
        "from data.imagenet.module import ImageNet",
        "SIZES = {'CIFAR': 32}",
        "issubclass(kind, TASKS.Adaptation)",
    ],
)
def test_a_planted_name_is_found(source: str) -> None:
    assert named(source)


def test_the_words_of_every_program_pass() -> None:
    assert not named("text = read_text()  # of a text\nimport_module(f'tasks.{task}').TASK")


# What they are asked: options exist, and an option of one task is none of another's.


def options_of(kind: Any) -> set[str]:
    added = ArgumentParser().add_class_arguments(kind, fail_untyped=False)
    return {name.partition(".")[0] for name in added}


@pytest.mark.parametrize("path", [*all_tasks(), *sets()])
def test_options_that_are_told_exist(path: str) -> None:
    kind = all_tasks().get(path) or sets()[path]
    neutral = Neutral.of(kind)
    assert neutral.always <= options_of(kind)
    assert neutral.validated <= neutral.measured <= neutral.always
    assert getattr(kind, "SIZED_BY", "") in options_of(kind) | {""}
    if path in all_tasks():
        assert kind.METRIC in kind.COLUMNS
    else:
        assert kind.SIZE


def test_an_option_is_neutral_in_the_task_that_says_so() -> None:
    """`pictures` of one task may mean something in another."""

    class Other(CNSNModule):
        MEASURED = frozenset({"tested"})

    options = {"pictures": 1, "tested": 2, "adabn": True}
    config = {"seed_everything": 0, "model": options, "data": {"workers": 3}, "trainer": {}}
    assert recipe_of(Other, config, {})["model"] == {"pictures": 1, "adabn": True}
    assert recipe_of(Other, config, {})["data"] == {}
    assert measured_of(Other, config, {}) == {"tested": 2}
