"""Every mistake in a configuration ends in one sentence, before data are read or files written.

The mistakes are those of config_cases.py. In-process, because a parser is built once a task and
each mistake then takes a fraction of a second; the data of the tasks are not there, or refuse to be
read, so that a mistake that is found too late shows.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.classification.digits import Digits
from tasks.engine import cli
from tests.reliability.config_cases import BASES, Mistake, by_hand, generated, module_of

pytestmark = pytest.mark.promise("a mistake in a configuration is one sentence, before any work")

SECONDS = 15.0
ROOTLESS = ("classification", "fixmatch")  # their data are bundled
KEPT = ("parser", "_subcommand_method_arguments", "_subcommand_parsers")
parsers: dict[type, dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def nothing_is_read_or_trained(monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[None]:
    build = cli.TaskCLI.setup_parser

    def built_once(self: cli.TaskCLI, *args: Any, **options: Any) -> None:
        if self.task_class not in parsers:
            build(self, *args, **options)
            parsers[self.task_class] = {k: vars(self)[k] for k in KEPT if k in vars(self)}
        vars(self).update(parsers[self.task_class])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the mistake was found too late")

    monkeypatch.setattr(cli.TaskCLI, "setup_parser", built_once)
    monkeypatch.setattr(cli.TaskCLI, "before_fit", refuse)
    monkeypatch.setattr(Digits, "read", refuse)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.chdir(root)
    yield


def command(task: str, folder: Path) -> list[str]:
    configs, *_ = BASES[task]
    place = "data.imdb" if task == "text" else "data.root"
    places = [] if task in ROOTLESS else [f"--{place}=/nowhere"]
    pair = ["--data.source=plain", "--data.target=dim"] if task == "adaptation" else []
    return [
        "fit",
        *(f"--config=configs/{name}.yaml" for name in configs.split()),
        *places,
        *pair,
        "--trainer.accelerator=cpu",
        f"--runs={folder / 'runs'}",
        f"--results={folder / 'results'}",
    ]


def message(task: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the user reads; the exit code must say that it failed."""
    with pytest.raises(SystemExit) as stop:
        cli.run(module_of(task).TASK, "classification" if task == "imagenet" else task, arguments)
    assert stop.value.code not in (0, None)
    said = stop.value.code if isinstance(stop.value.code, str) else ""
    text = f"{capsys.readouterr().err}\n{said}"
    return "\n".join(line for line in text.splitlines() if line.strip() and "Seed set" not in line)


def check(mistake: Mistake, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.process_time()
    text = message(mistake.task, [*command(mistake.task, folder), *mistake.options], capsys)
    assert time.process_time() - begun < SECONDS
    assert text.startswith("error: ") and "\n" not in text and len(text) < 1500, text
    assert "Traceback" not in text
    missing = [word for word in mistake.words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mistake", by_hand(), ids=str)
def test_mistake(tmp_path: Path, mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> None:
    check(mistake, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", generated(), ids=str)
def test_mistake_from_the_signatures(
    tmp_path: Path, mistake: Mistake, capsys: pytest.CaptureFixture[str]
) -> None:
    check(mistake, tmp_path, capsys)


def test_there_are_as_many_as_promised() -> None:
    """Of every task: those from signatures, though what tasks share is there once."""
    for mistakes in (by_hand(), generated()):
        assert len(set(map(str, mistakes))) == len(mistakes) >= 60
        assert {mistake.task for mistake in mistakes} == set(BASES)


@pytest.mark.parametrize("task", BASES)
def test_without_a_mistake_the_command_is_accepted(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the mistakes are added to is right: it fails for want of data, or comes to training."""
    arguments = command(task, tmp_path)
    if task in ROOTLESS:
        with pytest.raises(AssertionError, match="too late"):
            cli.run(module_of(task).TASK, task, arguments)
        return
    text = message(task, arguments, capsys)
    assert "/nowhere" in text


FILES = {
    "python tag": ("model: !!python/object/apply:os.system ['true']", "python"),
    "python name": ("model:\n  network: !!python/name:os.system", "python"),
    "no mapping": ("- 1\n- 2\n", "config"),
    "empty": ("", "nothing"),
    "not closed": ("model: {cnsn: [", "config"),
    "a key twice": ("model: {cnsn: {kind: cn}}\nmodel: {crossnorm: {p: 1}}\n", "'model' stands"),
    "a key twice within": ("model: {cnsn: {kind: cn, beta: 1, kind: sn}}\n", "'kind' stands"),
    "a name that is no name": ("name: 1\n", "name"),
    "a section without options": ("trainer:\n", "trainer"),
    "null for options": ("model: {optimizer: null}\n", "`model.optimizer` to hold options"),
    "a list for options": ("model: {cnsn: [cn]}\n", "`model.cnsn` to hold options"),
    "tabs": ("model:\n\tcnsn: 1\n", "config"),
    "unknown section": ("modle: {cnsn: {kind: cn}}\n", "modle"),
    "not UTF-8": (b"model: \xff\xfe", "config"),
    "an alias of itself": ("model: &a [*a]\n", "cannot be used"),
    "huge": (b" " * (2 << 20), "1 MiB"),
    "binary": (bytes(range(1, 32)), "config"),
}


@pytest.mark.promise("a hostile file is refused in one sentence, and runs nothing")
@pytest.mark.parametrize("case", FILES)
def test_config_file(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, word = FILES[case]
    (tmp_path / "places").mkdir()
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = [*command("classification", tmp_path / "places"), f"--config={path}"]
    text = message("classification", arguments, capsys)
    assert text.startswith("error: ") and "\n" not in text and word in text, text
    assert list((tmp_path / "places").iterdir()) == []


def spent_by_children() -> float:
    """Processor time in seconds, of which a busy machine takes no more than an idle one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "text", "segmentation"])
def test_in_a_process_of_its_own(tmp_path: Path, root: Path, task: str) -> None:
    """As a user types it; the traceback is there for who asks."""
    arguments = [*command(task, tmp_path), "--model.optimizer.lr=-1"]
    full = [sys.executable, "-m", f"tasks.{task}", *arguments]
    for asked in (False, True):
        environment = {**os.environ, "CNSN_TRACEBACK": "1" if asked else ""}
        begun = spent_by_children()
        done = subprocess.run(full, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert spent_by_children() - begun < SECONDS
        assert re.search(r"^error: Expected `lr` to be .* but got -1", done.stderr, re.MULTILINE)
        assert ("Traceback" in done.stderr) == asked
        assert list(tmp_path.iterdir()) == []
