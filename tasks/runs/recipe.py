"""What a run asks for and decides what is learnt: its recipe, and the recipe's hash."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from data.loading import ResumableDataModule
from tasks.runs.callback_kinds import decides_by_validation, hooks_of
from tasks.runs.signature import defaults_of

__all__ = [
    "config_hash",
    "digests_of",
    "measured_of",
    "other_data",
    "portable",
    "recipe_of",
    "same_data",
]

Config = dict[str, Any]


# What decides nothing about the weights: where things are written, and on what machine it runs.
NEUTRAL_TRAINER = {
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "logger",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "log_every_n_steps",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "default_root_dir",
    "profiler",
    "limit_val_batches",
    "limit_test_batches",
    "model_registry",
    "enable_autolog_hparams",
}


# Callbacks of Lightning's that only watch.
NEUTRAL_CALLBACKS = {
    f"lightning.pytorch.callbacks.{name}"
    for name in (
        "DeviceStatsMonitor",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "OnExceptionCheckpoint",
        "RichModelSummary",
        "RichProgressBar",
        "TQDMProgressBar",
        "ThroughputMonitor",
    )
}


# Options of the model that name a file, or something that is no file.
MODEL_FILES = ("weights", "official")
# Between a file's name and its content's checksum.
CHECKSUM = " sha256:"


class Neutral(NamedTuple):
    """Options of a task's module, or of a data module, that change nothing in what is learnt.

    Attributes:
        always: all of them.
        measured: of those, what decides what a test measures.
        validated: of those, what decides what a validation measures: a part of what is learnt where
            a callback follows from it.
    """

    always: frozenset[str]
    measured: frozenset[str]
    validated: frozenset[str]

    @staticmethod
    def of(kind: Any) -> Neutral:
        """As a class says them; one that says nothing has what every data module has."""
        neutral, measured, validated = (
            frozenset(getattr(kind, name, getattr(ResumableDataModule, name)))
            for name in ("NEUTRAL", "MEASURED", "VALIDATED")
        )
        return Neutral(neutral | measured, measured, validated)

    @staticmethod
    def of_data(data: Config) -> Neutral:
        """Of the data module that the options name."""
        return Neutral.of(
            pkgutil.resolve_name(data["class_path"]) if "class_path" in data else None
        )


# Of those of the trainer, what says what is validated and when.
VALIDATED_TRAINER = {"check_val_every_n_epoch", "limit_val_batches"}


def recipe_of(task: Any, config: Config, defaults: Config) -> Config:
    """What was asked for and decides what is learnt: all that is not a default.

    So an option that a later version adds leaves the runs before it as they are.

    Args:
        task: the module's class, which says what of its options decides nothing.
        config: of one subcommand, complete.
        defaults: the same without any option given.
    """
    recipe: Config = {"seed_everything": config["seed_everything"]}
    for key in ("model", "data", "trainer"):
        recipe[key] = _asked(deepcopy(config[key]), defaults.get(key) or {})
    # Both are links to seed_everything.
    recipe["model"].pop("seed", None)
    data = recipe["data"].get("init_args", recipe["data"])
    given = recipe["trainer"].pop("callbacks", None) or []
    given = given if isinstance(given, list) else [given]
    acting = [callback for callback in given if _may_act(callback)]
    deciding = any(_decides(callback) for callback in acting)
    of_model, of_data = Neutral.of(task), Neutral.of_data(recipe["data"])
    kept = of_data.validated
    if "limit_val_batches" in recipe["trainer"]:
        kept |= {"eval_batch_size"}  # batches of which size?
    for options, neutral, validated in (
        (recipe["trainer"], NEUTRAL_TRAINER, VALIDATED_TRAINER),
        (recipe["model"], of_model.always, of_model.validated),
        (data, of_data.always | {"seed"}, kept),
    ):
        for key in neutral - (validated if deciding else set()):
            options.pop(key, None)
    if acting:
        recipe["trainer"]["callbacks"] = acting
    model = recipe["model"]
    for options, names in ((data, locations(recipe["data"])), (model, MODEL_FILES)):
        for name in names:
            value = options.get(name)
            # A weight's name is no path.
            if isinstance(value, str) and (options is data or Path(value).expanduser().is_file()):
                # A link stays what it is called: it may lead elsewhere in the next job.
                options[name] = os.path.abspath(Path(value).expanduser())
    return recipe


def measured_of(task: Any, config: Config, defaults: Config) -> Config:
    """What was asked for and decides what a test measures, beside :func:`recipe_of`."""
    measured: Config = {}
    neutral = {"model": Neutral.of(task), "data": Neutral.of_data(config["data"])}
    for part, own in neutral.items():
        given = _asked(config[part], defaults.get(part) or {})
        given = given.get("init_args", given)
        measured |= {key: value for key, value in given.items() if key in own.measured}
    return measured


def _may_act(callback: Config) -> bool:
    """Whether a callback may decide what is learnt, as early stopping does.

    Not one that is called in `test` and `predict` alone.
    """
    path = callback["class_path"]
    if path in NEUTRAL_CALLBACKS:
        return False
    hooks = hooks_of(path, callback.get("init_args"))
    return any("test" not in name and "predict" not in name for name in hooks)


def _decides(callback: Config) -> bool:
    return decides_by_validation(callback["class_path"], callback.get("init_args"))


def locations(data: Config) -> tuple[str, ...]:
    """The options that are paths, as the data module's class names them."""
    if "class_path" not in data:
        return ("root",)
    return tuple(getattr(pkgutil.resolve_name(data["class_path"]), "LOCATIONS", ("root",)))


def portable(recipe: Config) -> Config:
    """The recipe without places: what a run is, wherever one stands and its files lie.

    Data are known by the name that was given for them, or that of a folder or file which tells
    sets apart (`NAMED` of the data module's class); files of weights by name and content.
    """
    data = recipe["data"]
    options = dict(data.get("init_args", {}))
    naming: dict[str, str] = {}
    defaults: Config = {}
    if "class_path" in data:
        kind = pkgutil.resolve_name(data["class_path"])
        naming = getattr(kind, "NAMED", {})
        defaults = defaults_of(kind)
    for option in locations(data):
        place = options.pop(option, None)
        name = Path(place).name if isinstance(place, str) and option in naming else None
        given = options.get(naming.get(option, "")) is not None
        if name is not None and not given and name != Path(str(defaults.get(option))).name:
            options[option] = name
    model = {
        k: _file_name(v) if k in MODEL_FILES and isinstance(v, str) else v
        for k, v in recipe["model"].items()
    }
    moved = {**recipe, "data": {**data, "init_args": options}, "model": model}
    if "start" in recipe:
        start = Path(recipe["start"])
        ours = start.parent.name == "checkpoints"
        moved["start"] = "/".join(start.parts[-4:]) if ours else _file_name(str(start))
    return moved


def _file_name(value: str) -> str:
    """A file's name with its checksum; what is no file here is a name already."""
    path = Path(value)
    if not path.is_file():
        return path.name
    stat = path.stat()
    return f"{path.name}{CHECKSUM}{_checksum(path, stat.st_size, stat.st_mtime_ns)[:16]}"


@cache
def _checksum(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _asked(value: Any, default: Any) -> Any:
    """`value` without the entries that equal `default`, or the defaults of the class it names."""
    if isinstance(value, dict) and "class_path" in value:
        own = defaults_of(pkgutil.resolve_name(value["class_path"]))
        return {
            "class_path": value["class_path"],
            "init_args": _asked(value.get("init_args") or {}, own),
        }
    if isinstance(value, list):  # of objects, say
        return [_asked(entry, None) for entry in value]
    default = _as_dict(default)
    if isinstance(value, dict) and isinstance(default, dict):
        changed = (k for k in value if k not in default or not _equal(value[k], default[k]))
        return {k: _asked(value[k], default.get(k)) for k in changed}
    return value


def _equal(value: Any, default: Any) -> bool:
    default = _as_dict(default)
    return json.dumps(value, default=str) == json.dumps(default, default=str)


def _as_dict(default: Any) -> Any:
    known = is_dataclass(default) and not isinstance(default, type)
    return asdict(default) if known else default


def config_hash(recipe: Config) -> str:
    """First 8 hexadecimal digits of the SHA-256 of a recipe."""
    text = json.dumps(recipe, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def digests_of(recipe: Config) -> tuple[str, ...]:
    """The hash of a run's directory, then that of versions whose hash held the places of files."""
    return config_hash(portable(recipe)), config_hash(_resolved(recipe))


def _resolved(recipe: Config) -> Config:
    """The recipe with the places that links lead to."""

    def follow(options: Config, names: Iterable[str]) -> Config:
        places = {k: v for k in names if isinstance(v := options.get(k), str) and Path(v).exists()}
        return {**options, **{k: str(Path(v).resolve()) for k, v in places.items()}}

    data = recipe["data"]
    if "init_args" in data:
        data = {**data, "init_args": follow(data["init_args"], locations(data))}
    return {**recipe, "data": data, "model": follow(recipe["model"], MODEL_FILES)}


def same_data(measured: Config, given: Config | None) -> bool:
    """Whether what was measured may be of the data that are given now.

    Args:
        measured: a result line, or what a finished run says of its data.
        given: from the data module's `describe`; None where there are none to compare. Without
            training images where these are not at hand for a test.
    """
    if given is None or (measured.get("n_train") and not given["n_train"]):
        return True
    return bool(measured.get("fingerprint") == given["fingerprint"])


def other_data(finished: Config, given: Config | None) -> str | None:
    """Which data a finished run was trained on, where they are others than those given now."""
    trained = finished.get("data")  # Not in the record of an older version.
    if trained is None or same_data(trained, given):
        return None
    return f"{trained['dataset']}, fingerprint {trained['fingerprint']}"
