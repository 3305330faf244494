"""Does a training step wait for the device? Counted, task by task.

    python -m benchmarks.synchronisation                  # no GPU: on tensors without contents
    python -m benchmarks.synchronisation --device cuda    # CUDA's own report

A host that reads a value from the device, or copies to it from memory that is not pinned, waits
until the device has done all that was asked of it, and the device then waits for the host. Without
a GPU the whole training loop, from loader to optimiser, runs on torch's `meta` device: its tensors
have no contents, so whatever needs one is found at the line that asks for it. It takes the paths of
a GPU, as the code asks only whether a device is the CPU.

What Lightning does by itself every `log_every_n_steps` steps, reading the losses to log them, is
left out.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import lightning as L
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.machine import command, machine
from benchmarks.table import Table, save
from benchmarks.waiting_cases import Case, cases

__all__ = ["Watch", "first_wait", "watched"]

ROOT = Path(__file__).resolve().parents[1]
Device = Literal["meta", "cuda"]
# Their tests are watched too.
TESTED = ("classification", "segmentation, none", "text, crop neither")
WARM_UP = 1  # steps that may wait: constants go to the device, the optimiser gets its state
STEPS = 2


class Waiting(RuntimeError):
    """Something would make the host wait for the device."""


class Watch(TorchDispatchMode):
    """Raises :class:`Waiting` at every read from the device and every blocking copy to it.

    For the device `meta`; of CUDA its own report knows more. Copies that do not block are let pass:
    they must be from pinned memory, which only a GPU's host has.
    """

    READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        on_device = any(x.device.type == "meta" for x in tensors)
        if name in self.READS and on_device:
            raise Waiting(f"{name} reads from the device")
        if name in ("_to_copy", "copy_"):
            source = tensors[-1].device
            target = torch.device(kwargs.get("device") or tensors[0].device)
            # Of `copy_` the third argument, which need not be named.
            unblocked = bool(kwargs.get("non_blocking") or (name == "copy_" and args[2:3]))
            if source.type != target.type and (source.type == "meta" or not unblocked):
                raise Waiting(f"{name} from {source} to {target} blocks")
        return func(*args, **kwargs)


class _NoDevice(Accelerator):
    """What Lightning must know of a device that has no contents."""

    def setup_device(self, device: torch.device) -> None: ...
    def teardown(self) -> None: ...
    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("meta")]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "meta"


class _Done(Exception):
    """Ends a run after the last watched step: there is nothing to bring back from the device."""


class _Watching(L.Callback):
    """Watches from the end of the step `WARM_UP` to the end of the last one."""

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self.steps, self.on = 0, False

    def on_train_batch_end(self, *_: Any) -> None:
        self._count()

    def on_test_batch_end(self, *_: Any) -> None:
        self._count()

    def _count(self) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            self.watch.__enter__()
            self.on = True
        if self.steps == WARM_UP + STEPS:
            self.stop()
            raise _Done

    def stop(self) -> None:
        if self.on:
            self.watch.__exit__(None, None, None)
        self.on = False


@contextmanager
def _cuda_reports() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def watched(device: Device, **options: Any) -> tuple[L.Trainer, _Watching]:
    """A trainer on `device` and its watch over a few steps; `options` are Lightning's."""
    watching = _Watching(Watch() if device == "meta" else _cuda_reports())
    if device == "meta":
        strategy = SingleDeviceStrategy(torch.device("meta"), accelerator=_NoDevice())
        where: dict[str, Any] = {"strategy": strategy}
    else:
        where = {"accelerator": "gpu", "devices": 1}
    defaults: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    callbacks = [*options.pop("callbacks", []), watching]
    trainer = L.Trainer(
        **where,
        max_steps=WARM_UP + STEPS + 1,
        limit_val_batches=0,
        log_every_n_steps=1000,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        default_root_dir=tempfile.gettempdir(),
        **{**defaults, **options},
    )
    return trainer, watching


def first_wait(
    case: Case, *, device: Device = "meta", test: bool = False, **options: Any
) -> str | None:
    """What waits in a few training steps first, with its line in this project; None if nothing.

    Args:
        case: makes the task's module and its data.
        device: where.
        test: watch the steps of a test instead.
        options: of Lightning's trainer.
    """
    module, data = case()
    trainer, watching = watched(device, **options)
    try:
        with _bringing_nothing_back(trainer) if device == "meta" else nullcontext():
            (trainer.test if test else trainer.fit)(module, data)
    except _Done:
        return None
    except (RuntimeError, NotImplementedError) as error:
        # Of tensors without contents, and of CUDA's report.
        if not any(word in str(error) for word in ("meta", "synchroniz", "blocks", "reads from")):
            raise
        watching.stop()
        return f"{error}, at {_line_of(error)}"
    raise RuntimeError(f"Expected {WARM_UP + STEPS} steps, but the data have fewer.")


@contextmanager
def _bringing_nothing_back(trainer: L.Trainer) -> Iterator[None]:
    """Leave out what Lightning reads from the device before the first step and after the last."""
    length = "lightning.pytorch.loops.{}.has_len_all_ranks"
    with (
        mock.patch(length.format("fit_loop"), lambda *_: True),
        mock.patch(length.format("evaluation_loop"), lambda *_: True),
        mock.patch.object(trainer, "_teardown"),
    ):
        yield


def _line_of(error: BaseException) -> str:
    """The innermost line of this project on the way to `error`; else of a library."""
    library = str(Path(torch.__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith(library)
    ]
    own = [
        f for f in frames if f.filename.startswith(str(ROOT)) and "/benchmarks/" not in f.filename
    ]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("meta", "cuda"), default="meta")
    parser.add_argument("--only", default="", help="the cases whose names hold this")
    default = Path("runs/results/benchmark_synchronisation.md")
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table = Table("steps of", "what waits first")
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases(Path(folder)).items():
            for test in (False, True) if name in TESTED else (False,):
                if options.only in name:
                    try:
                        found = first_wait(case, device=options.device, test=test)
                    except ModuleNotFoundError as error:
                        found = f"not run: there is no {error.name}"
                    table.add(f"{name}{', test' if test else ''}", found or "nothing")
    how = "CUDA's own report" if options.device == "cuda" else "tensors without contents"
    text = (
        f"# Does a step wait for the device?\n\n{table}\n\n"
        f"Whole steps, from loader to optimiser, by {how}: {STEPS} after {WARM_UP} to warm up. "
        f"Losses are read where they are logged, every 10 steps, which is left out. {machine()}. "
        f"Made by `{command()}`.\n"
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
