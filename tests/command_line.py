"""A task's command line in a test: where it writes, how it refuses, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Interruption", "interrupt", "places", "refusal", "stop_and_resume"]

Main = Callable[[list[str]], object]


class Interruption(Exception):
    """Ends the training."""


def interrupt(patch: pytest.MonkeyPatch, module_class: type[Any], *steps: int) -> list[int]:
    """Let a task's training end once before each of these global steps.

    Returns:
        The steps that are still to come.
    """
    original, left = module_class.training_step, list(steps)

    def training_step(module: Any, batch: dict[str, Any], batch_idx: int) -> Any:
        if module.global_step in left:
            left.remove(module.global_step)
            raise Interruption
        return original(module, batch, batch_idx)

    patch.setattr(module_class, "training_step", training_step)
    return left


def stop_and_resume(
    patch: pytest.MonkeyPatch,
    module_class: type[Any],
    main: Main,
    command: list[str],
    stops: Mapping[int, int],
) -> None:
    """Run a `fit` that ends before each step of `stops`, then to its end.

    Args:
        stops: global step: the loader's workers in the start that ends there.
    """
    left = interrupt(patch, module_class, *stops)
    for workers in stops.values():
        with pytest.raises(Interruption):
            main([*command, f"--data.workers={workers}"])
    main(command)
    assert not left


def places(folder: Path) -> list[str]:
    return [f"--runs={folder / 'runs'}", f"--results={folder / 'results'}"]


def refusal(main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a command line ends; its exit code must not be 0."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code not in (0, None)
    own = stop.value.code if isinstance(stop.value.code, str) else ""
    message = own + capsys.readouterr().err
    assert "Traceback" not in message
    return message
