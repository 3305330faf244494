"""Where a run lives: runs/<task>/<name>/seed<k>-<hash of what was asked>.

The same command finds the same directory again, so that an unfinished run resumes and a finished
one is not run twice; another command never writes into it. Neither the working directory nor the
place of the data counts: data are known by their name and, in `finished.json`, their fingerprint.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import Timeout

from data.locks import Lock
from data.records import json_text
from tasks.callback_kinds import decides_by_validation, hooks_of
from tasks.checkpoint_io import LAST, PREVIOUS, newest_readable

__all__ = [
    "RunDirectory",
    "config_hash",
    "digests_of",
    "finished_fit",
    "measured_of",
    "name_of",
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
# Options of the model that concern its test and its pictures alone.
NEUTRAL_MODEL = {
    "adabn",
    "adabn_passes",
    "adabn_selfnorm",
    "attack",
    "attacks",
    "evaluation",
    "pictures",
}
NEUTRAL_DATA = {
    "workers",
    "eval_batch_size",
    "resident",
    "corrupted",
    "corruptions",
    "severities",
    "title",
    "verify",
    "predict_root",
    "sst2",
    "sst2_splits",
}
# Of those, what decides what a test measures.
MEASURED = {
    "adabn",
    "adabn_passes",
    "adabn_selfnorm",
    "attack",
    "attacks",
    "corrupted",
    "corruptions",
    "evaluation",
    "severities",
    "sst2",
    "sst2_splits",
}
# What says what is validated and when: a part of what is learnt where a callback follows from it.
_DECIDING = {
    "trainer": {"check_val_every_n_epoch", "limit_val_batches"},
    "model": {"evaluation"},
    "data": {"sst2_splits"},
}


def recipe_of(config: Config, defaults: Config) -> Config:
    """What was asked for and decides what is learnt: all that is not a default.

    So an option that a later version adds leaves the runs before it as they are.

    Args:
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
    deciding = _DECIDING if any(_decides(callback) for callback in acting) else {}
    for key in NEUTRAL_TRAINER - deciding.get("trainer", set()):
        recipe["trainer"].pop(key, None)
    if acting:
        recipe["trainer"]["callbacks"] = acting
    for key in NEUTRAL_MODEL - deciding.get("model", set()):
        recipe["model"].pop(key, None)
    if deciding and "limit_val_batches" in recipe["trainer"]:  # batches of which size?
        deciding = {**deciding, "data": deciding["data"] | {"eval_batch_size"}}
    for key in {*NEUTRAL_DATA, "seed"} - deciding.get("data", set()):
        data.pop(key, None)
    model = recipe["model"]
    for options, names in ((data, locations(recipe["data"])), (model, MODEL_FILES)):
        for name in names:
            value = options.get(name)
            # A weight's name is no path.
            if isinstance(value, str) and (options is data or Path(value).expanduser().is_file()):
                # A link stays what it is called: it may lead elsewhere in the next job.
                options[name] = os.path.abspath(Path(value).expanduser())
    return recipe


def measured_of(config: Config, defaults: Config) -> Config:
    """What was asked for and decides what a test measures, beside :func:`recipe_of`."""
    parts = (_asked(config[key], defaults.get(key) or {}) for key in ("model", "data"))
    given = (part.get("init_args", part) for part in parts)
    return {key: value for part in given for key, value in part.items() if key in MEASURED}


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
    return tuple(getattr(_named(data["class_path"]), "LOCATIONS", ("root",)))


def portable(recipe: Config) -> Config:
    """The recipe without places: what a run is, wherever one stands and its files lie.

    Data are known by the name that was given for them, or that of a folder or file which tells
    sets apart (`NAMED` of the data module's class); files of weights by name and content.
    """
    data = recipe["data"]
    options = dict(data.get("init_args", {}))
    named: dict[str, str] = {}
    defaults: Config = {}
    if "class_path" in data:
        kind = _named(data["class_path"])
        named = getattr(kind, "NAMED", {})
        defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
    for option in locations(data):
        place = options.pop(option, None)
        name = Path(place).name if isinstance(place, str) and option in named else None
        given = options.get(named.get(option, "")) is not None
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
        parameters = inspect.signature(_named(value["class_path"])).parameters
        own = {name: parameter.default for name, parameter in parameters.items()}
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


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


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


def finished_fit(checkpoint: Path) -> Config | None:
    """The record of the finished fit that `checkpoint`, the last of any run, is the end of.

    A link counts as the file that it leads to.
    """
    checkpoint = checkpoint.resolve()
    return _finished(checkpoint.parent.parent) if checkpoint.name == "last.ckpt" else None


def name_of(checkpoint: Path, runs: Path) -> str | None:
    """The `--name` of the run below ``<runs>/<task>`` that a checkpoint is of; None elsewhere.

    Folders of runs may be links, to another disk, say.
    """
    folder, given = checkpoint.resolve().parents[2], checkpoint.absolute().parents[2]
    if runs.resolve() in folder.parents:
        return folder.relative_to(runs.resolve()).as_posix()
    if runs.absolute() in given.parents and given.resolve() == folder:
        return given.relative_to(runs.absolute()).as_posix()
    return None


def _finished(folder: Path) -> Config | None:
    path = folder / "finished.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        return {"steps": int(record["steps"]), **record}
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"Expected {path} to say how the run ended, but it is damaged: delete it, and `fit` "
            "with the same options goes on from the last checkpoint."
        ) from error


class RunDirectory:
    """One run's directory and its state.

    Args:
        base: ``runs/<task>/<name>``.
        seed: of the run.
        digest: the first of :func:`digests_of`.
        older: the others, whose directory counts where there is none of today's.
        fresh: take a new numbered directory where this run has one already.
    """

    # Processes that rank 0 starts must share its choice of a fresh directory.
    VARIABLE = "CNSN_RUN_DIRECTORY"

    def __init__(
        self,
        base: Path,
        *,
        seed: int,
        digest: str,
        older: Sequence[str] = (),
        fresh: bool = False,
    ) -> None:
        paths = [base / f"seed{seed}-{own}" for own in (digest, *older)]
        self.path = next((path for path in paths if path.exists()), paths[0])
        self.fresh = fresh
        shared = os.environ.get(self.VARIABLE)
        if fresh and shared:
            self.path = Path(shared)
        elif fresh:
            number = 2
            first = self.path
            while self.path.exists():
                self.path = first.with_name(f"{first.name}.{number}")
                number += 1
            os.environ[self.VARIABLE] = str(self.path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    def resume_point(self) -> Path | None:
        """The newest checkpoint that can be read; see :func:`newest_readable`."""
        return newest_readable(self.checkpoints)

    def outlook(self) -> str:
        """What the same command does with a run that ended early, in a sentence."""
        if not any((self.checkpoints / name).is_file() for name in (LAST, PREVIOUS)):
            return "There is no checkpoint yet: the same command starts from the beginning."
        resumes = "he same command resumes from the last checkpoint"
        if self.fresh:
            variable = f"{self.VARIABLE}={shlex.quote(str(self.path))}"
            return f"With {variable} t{resumes}; without, it trains another run."
        return f"T{resumes}."

    def finished(self) -> Config | None:
        """The record of the finished fit; None while it is unfinished."""
        return _finished(self.path)

    def reopen(self) -> None:
        """It trains again: until its end nothing may take it for finished."""
        (self.path / "finished.json").unlink(missing_ok=True)

    def trained(self, checkpoint: Path) -> Config | None:
        """The record of the finished fit that `checkpoint` is the end of.

        None if it is another checkpoint, of a run that is unfinished, or of another recipe; a run
        repeated by ``--fresh`` has the same recipe.
        """
        checkpoint = checkpoint.resolve()
        home = checkpoint.parent.parent
        same = home.name.partition(".")[0] == self.path.name.partition(".")[0]
        if (
            checkpoint.name != self.last.name
            or not same
            or home.parent != self.path.parent.resolve()
        ):
            return None
        return finished_fit(checkpoint)

    def hold(self) -> Lock:
        """Keep other processes from training here; it is freed when its holder dies.

        Raises:
            ValueError: another process trains here now.
        """
        lock = Lock(self.path / "training.lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"Expected no other process to train in {self.path}, but one does: wait until it "
                f"has ended, or train beside it with another `--name`.{lock.way_out()}"
            ) from error

    def write(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f"{name}.{os.getpid()}.part"
        try:
            with part.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path / name)
        finally:
            part.unlink(missing_ok=True)

    def finish(self, record: Config) -> None:
        self.write("finished.json", json_text(record, indent=1) + "\n")
