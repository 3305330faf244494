"""The options of a command line, checked before any work; errors in one sentence."""

from __future__ import annotations

import math
import os
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any, get_args

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from tasks.engine.base import CNSNModule
from tasks.engine.factories import FactoryParser
from tasks.engine.results import OWN, check_own
from tasks.runs.callback_kinds import check_callbacks
from tasks.runs.nonfinite import NonFinite
from tasks.runs.signature import hints_of

__all__ = [
    "add_options",
    "check",
    "rehearse",
]

CLASSES = 10  # of the trial


IMAGE = 64  # pixels a side of the trial's image


LARGEST = 2**31 - 1  # of a count: beyond it torch's numbers end


LARGEST_FLOAT = 3.4e38  # of float32, in which networks are trained


LARGEST_WHOLE = 2**63 - 1


LONGEST_NAME = 200  # characters; a file system allows 255 bytes of a part


# What Lightning takes and stumbles over later, turns into something else in silence, or refuses
# without a remedy: what is right besides null, in words, and why or what serves instead.
TRAINER: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "devices": (
        lambda n: n not in (0, "0", "[]", []),
        "a number from 1, a list of devices, auto, or -1 for all",
        "",
    ),
    "accumulate_grad_batches": (
        lambda n: 1 <= n <= LARGEST,
        f"at least 1 and at most {LARGEST}",
        "",
    ),
    "check_val_every_n_epoch": (lambda n: n >= 1, "at least 1", ""),
    "val_check_interval": (
        lambda n: not isinstance(n, int | float) or n > 0,
        "a part of an epoch in (0, 1], or a number of batches from 1",
        "",
    ),
    "gradient_clip_val": (lambda x: 0 <= x < math.inf, "0 or more and finite, or null", ""),
    "log_every_n_steps": (lambda n: n >= 0, "0 or more", ""),
    # Images arrive in float32, and a step of float16 weights is lost to rounding.
    "precision": (
        lambda p: str(p) in ("32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed"),
        "32-true, 16-mixed or bf16-mixed",
        ": weights are kept in float32",
    ),
    "max_time": (
        lambda _: False,
        "null",
        ": the learning rate follows from how many steps a run has. Stop it by SIGTERM, as "
        "`timeout 2h` sends it, and the same command resumes",
    ),
    "overfit_batches": (lambda n: n == 0, "0.0", ": use `trainer.limit_train_batches`"),
    "use_distributed_sampler": (
        lambda used: not used,
        "false",
        ": the data share themselves out over processes, in an order that is a function of the "
        "seed",
    ),
    "reload_dataloaders_every_n_epochs": (
        lambda n: n == 0,
        "0",
        ": every epoch has its own order without it, and with it a run would not resume exactly",
    ),
    "barebones": (lambda used: not used, "false", ": a run is logged and saved"),
    "enable_checkpointing": (lambda used: used, "null", ": a run is saved"),
}


def add_options(parser: LightningArgumentParser, task: type[CNSNModule]) -> None:
    """What a command line has beside Lightning's options, and the options that follow from others.

    Args:
        parser: takes them.
        task: the task's module.
    """
    parser.add_argument("--name", type=str, default="default", help="of the run, a folder or a/b/c")
    parser.add_argument("--runs", type=str, default="runs", help="folder of run directories")
    parser.add_argument("--results", type=str, default=str(OWN), help="folder of result lines")
    parser.add_argument(
        "--fresh", type=bool, default=False, help="a new numbered run beside the existing one"
    )
    parser.add_argument(
        "--save_every", type=int, default=0, help="also save `last` every N steps (0: by epoch)"
    )
    parser.add_argument(
        "--speed", type=bool, default=True, help="log throughput, step time and memory"
    )
    parser.add_argument(
        "--nonfinite",
        type=NonFinite,
        default="stop",
        help="whether a step whose loss or gradient is not finite stops the run or is left out",
    )
    parser.link_arguments("seed_everything", "data.init_args.seed")
    parser.link_arguments("seed_everything", "model.seed")
    for source, target, when in task.LINKS:
        parser.link_arguments(source, target, apply_on=when)
    task.add_arguments(parser)


def check(config: Any, subcommand: str, task: type[CNSNModule]) -> None:
    """All that can be said against options before anything is built.

    Args:
        config: of one subcommand, complete.
        subcommand: its name.
        task: the task's module.

    Raises:
        ValueError: the message names the option and what is allowed.
    """
    check_sections(config, task)
    check_options(config, subcommand)
    task.check_config(config)
    check_own(Path(config.results))


def rehearse(config: Any, task: type[CNSNModule]) -> None:
    """Build the model once without data, so that a mistake in it shows before they are read.

    What only the data know, such as the number of classes, is a small number here.
    """
    unknown = [target for _, target, when in task.LINKS if when == "instantiate"]
    if not unknown:
        return
    trial = config.model.clone()
    for key in unknown:
        trial[key.removeprefix("model.")] = CLASSES
    for key in ("weights", "official"):
        if key in trial:
            trial[key] = None
    parser = FactoryParser(exit_on_error=False)
    parser.add_class_arguments(task, "model")
    with torch.random.fork_rng(devices=[]):
        made = parser.instantiate_classes(parser.parse_object({"model": trial.as_dict()}))
        if not trial.network.class_path.startswith(("cnsn.", "tasks.")):
            _check_outputs(made.model, trial.network.class_path)


@torch.no_grad()
def _check_outputs(model: CNSNModule, name: str) -> None:
    """Refuse a network from elsewhere whose outputs are not one for each class.

    A network that takes no images as small as the trial's goes on unseen.
    """
    try:
        outputs: Any = model.eval()(*model.example(IMAGE))
    except Exception:
        return
    outputs = outputs["out"] if isinstance(outputs, dict) and "out" in outputs else outputs
    expected = model.output_shape(IMAGE, CLASSES)
    shape = tuple(getattr(outputs, "shape", ()))
    if shape != expected:
        found = f"outputs of shape {shape}" if shape else f"a {type(outputs).__name__}"
        raise ValueError(
            f"Expected {name} to build a network that makes outputs of shape {expected} of an "
            f"image of {IMAGE}x{IMAGE} and {CLASSES} classes, as this task needs, but got {found}."
        )


def check_options(config: Any, subcommand: str) -> None:
    """Refuse what the options' types allow and no run can be.

    Args:
        config: of one subcommand, complete.
        subcommand: its name; only `fit` must know how long it trains.

    Raises:
        ValueError: the message names option, value and what is allowed.
    """
    _check_run(config)
    _check_length(config.trainer, open_ends=(None, -1) if subcommand == "fit" else (-1,))
    _check_trainer(config.trainer)
    if config.trainer.default_root_dir is not None and subcommand != "predict":
        raise ValueError(
            "Expected `trainer.default_root_dir` to be null but for `predict`, which writes below "
            f"it, but got {config.trainer.default_root_dir}: a run lies where `--runs` and "
            "`--name` say, its result where `--results` says."
        )
    for section in ("model", "data"):
        _check_sizes(section, config.get(section).as_dict())
    _check_workers(config.get("data.init_args.workers"))


def check_sections(config: Any, task: Any) -> None:
    """Refuse a value where a group of options stands, and null where a value must.

    Args:
        config: of one subcommand.
        task: the class whose parameters the section `model` has; dataclasses are groups.

    Raises:
        ValueError: the message names the group or option, and the value.
    """
    groups = [(name, config.get(name)) for name in ("trainer", "model", "data")]
    nested = [name for name, hint in hints_of(task).items() if is_dataclass(hint)]
    groups += [(f"model.{name}", config.get(f"model.{name}")) for name in nested]
    for name, value in groups:
        if not hasattr(value, "items"):
            raise ValueError(
                f"Expected `{name}` to hold options, as key: value, but got {_shown(value)}."
            )
    linked = {target for _, target, _ in task.LINKS} | {"data.init_args.seed"}
    for name in ("model.network", "data"):
        _check_nulls(name, config.get(name), linked)


def _check_run(config: Any) -> None:
    seed, name = config.seed_everything, config.name
    if seed is None or not 0 <= seed < 2**32:
        raise ValueError(
            f"Expected `seed_everything` to be from 0 to 2^32 - 1, but got {seed}: a run is a "
            "function of its seed."
        )
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or not name.isprintable():
        raise ValueError(
            f"Expected `name` to be a folder's name such as a or a/b/c, but got {name!r}: runs lie "
            "below `--runs`."
        )
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"Expected `name` to have at most {LONGEST_NAME} characters, but got {len(name)}: "
            f"{name[:40]}..."
        )
    if config.save_every < 0:
        raise ValueError(f"Expected `save_every` to be 0 or more, but got {config.save_every}.")


def _check_sizes(section: str, options: Any) -> None:
    """Refuse numbers that no tensor holds, wherever they stand."""
    for key, value in _numbers(section, options):
        whole = isinstance(value, int)
        largest = LARGEST_WHOLE if whole else LARGEST_FLOAT
        if math.isnan(value) or largest < abs(value) < math.inf:
            # What is infinite is for each option to judge.
            kind = "a whole number" if whole else "a number"
            raise ValueError(
                f"Expected `{key}` to be {kind} of at most {largest}, but got {value}."
            )


def _numbers(key: str, value: Any) -> Iterator[tuple[str, int | float]]:
    """Every number among nested options, with its key."""
    if isinstance(value, int | float):
        yield key, value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(key, part)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(key if name == "init_args" else f"{key}.{name}", part)


def _check_nulls(key: str, chosen: Any, linked: set[str]) -> None:
    """Refuse null for an option of a chosen class that has no such value: parsers let it pass."""
    hints = hints_of(pkgutil.resolve_name(chosen.class_path))
    for name, value in vars(chosen.get("init_args") or Namespace()).items():
        hint = hints.get(name, Any)
        known = hint not in (Any, Parameter.empty) and f"{key}.init_args.{name}" not in linked
        if value is None and known and type(None) not in (hint, *get_args(hint)):
            kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise ValueError(f"Expected `{key}.{name}` to be of type {kind}, but got null.")


def _check_workers(workers: Any) -> None:
    """Too many processes bring a machine to a standstill before anything can be said."""
    most = max(64, 8 * (os.cpu_count() or 1))
    if isinstance(workers, int) and workers > most:
        raise ValueError(
            f"Expected `data.workers` to be at most {most} on this machine, but got {workers}: "
            "they are processes, and one or two for each core read as fast."
        )


def _check_length(trainer: Any, open_ends: tuple[int | None, ...]) -> None:
    if trainer.max_epochs in open_ends and trainer.max_steps == -1:
        raise ValueError(
            "Expected `trainer.max_epochs` or `trainer.max_steps` to be 0 or more, but got "
            f"{'null' if trainer.max_epochs is None else -1}: the learning rate follows from how "
            "long a run is."
        )


def _check_trainer(trainer: Any) -> None:
    for name, (right, allowed, why) in TRAINER.items():
        value = trainer.get(name)
        if value is not None and not right(value):
            raise ValueError(
                f"Expected `trainer.{name}` to be {allowed}, but got {_shown(value)}{why}."
            )
    check_callbacks(trainer.callbacks)


def _shown(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
