"""Options and configuration files, checked before any work; errors in one sentence."""

from __future__ import annotations

import logging
import math
import os
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import Namespace

from tasks.runs.callback_kinds import check_callbacks

__all__ = [
    "check_config_files",
    "check_options",
    "check_sections",
]

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
    hints = get_type_hints(task.__init__)
    nested = [name for name, hint in hints.items() if is_dataclass(hint)]
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
    made = pkgutil.resolve_name(chosen.class_path)
    try:
        hints = get_type_hints(made.__init__ if isinstance(made, type) else made)  # type: ignore[misc]
    except NameError:  # of a class from elsewhere that names types it does not import
        return
    for name, value in vars(chosen.get("init_args") or Namespace()).items():
        hint = hints.get(name, Any)
        known = hint is not Any and f"{key}.init_args.{name}" not in linked
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


def _quiet() -> None:
    """Hide messages that ask nothing of the user."""
    for message in (
        "LightningCLI's args parameter",  # given so on purpose
        r".*LeafSpec.*",  # between two libraries
        r"Checkpoint directory .* exists and is not empty",  # a resumed run
        r".*does not have many workers",  # images in memory need none
        r"Be aware that when using `ckpt_path`",  # a test needs no callbacks
        r"predict returned None",  # predictions are written to files
    ):
        warnings.filterwarnings("ignore", message)
    # The sentence alone: where in the code it was said helps no user.
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    hints = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    hints.addFilter(lambda record: "Tip:" not in record.getMessage())
    saving = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    # Of every checkpoint: that it holds more than weights.
    saving.addFilter(lambda record: not record.getMessage().startswith("`weights_only` was not"))


def _own_words(error: Exception) -> str:
    """Our sentence, without what others put around it.

    A parser lists all the types that it tried; a loader's worker puts its traceback before.
    """
    text = str(error)
    if text.startswith("Caught "):
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    lines = [line.strip(" -") for line in text.splitlines()]
    ours = [line for line in lines if line.startswith("Expected ") and "<class '" not in line]
    return ours[0] if ours and "Union subtypes" in lines[0] else text


def _unknown_metric(error: Exception) -> str | None:
    """What to say where a callback waits for a metric that is never logged; None if it is not so.

    Which there are is known after the first validation.
    """
    found = re.match(r"Early stopping conditioned on metric `(.*?)` .* following: (.*)", str(error))
    if found is None:
        return None
    return f"Expected EarlyStopping's `monitor` to be one of {found[2]}, but got `{found[1]}`."


ENDINGS = (".yaml", ".yml", ".json")


LARGEST_FILE = 1 << 20  # bytes; the largest of configs/ has a hundredth of it


class _KeysOnce(yaml.BaseLoader):
    """Refuses a key that its mapping has already, of which a parser takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise ValueError(
                    f"Expected {self.name} to say every key once, but {key.value!r} stands again "
                    f"in line {key.start_mark.line + 1}: keep one, as the other would be passed "
                    "over."
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def check_config_files(arguments: Sequence[str]) -> None:
    """Refuse files among the arguments of a command line that no configuration is.

    Raises:
        ValueError: a file is not UTF-8, too large, holds no options or says one key twice. The
            message names it.
    """
    for number, argument in enumerate(arguments):
        path = Path(argument.partition("=")[2] if argument.startswith("-") else argument)
        if path.suffix not in ENDINGS or not path.is_file():
            continue
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"Expected {path} to be a configuration, but it has over 1 MiB.")
        try:
            with path.open(encoding="utf-8") as file:
                found = yaml.load(file, Loader=_KeysOnce)
        except UnicodeDecodeError as error:
            raise ValueError(f"Expected {path} to be UTF-8, but it is not: {error}.") from error
        except (yaml.YAMLError, RecursionError):
            continue  # The parser says where.
        before = arguments[number - 1] if number else ""
        whole = argument.startswith("--config=") or before == "--config"
        if whole and not isinstance(found, dict):
            kind = (
                "nothing" if found is None else "a list" if isinstance(found, list) else "a value"
            )
            raise ValueError(
                f"Expected {path} to hold options, as key: value, but it holds {kind}."
            )
