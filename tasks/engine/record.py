"""What a command writes down: for its loggers, in a finished run's directory, and a test's line."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from tasks.engine.results import (
    FORMAT,
    HELD_OUT,
    PRETRAINED,
    append_result,
    check_writable,
    last_epoch_of,
)
from tasks.engine.speed import in_words
from tasks.engine.start import Start
from tasks.engine.titles import Titles
from tasks.engine.trainer import Watches, as_list
from tasks.runs.checkpoints import epoch_of, recipe_in
from tasks.runs.directory import CLASSES, finished_fit, name_of
from tasks.runs.recipe import other_data, portable
from tasks.runs.resume import differences

__all__ = ["Record", "name_loggers"]


def name_loggers(start: Start, titles: Titles, kind: str) -> None:
    """Give loggers what the run is, where they have such an option that was left open.

    Args:
        start: of the command, whose options are completed.
        titles: of the run.
        kind: what is done.
    """
    config = start.config
    network = config.model.network.class_path.rpartition(".")[2]
    described = {
        "save_dir": str(start.directory.path),
        "name": titles.name,
        "group": titles.group,
        "job_type": kind,
        "tags": [start.task, network, config.model.cnsn.kind],
    }
    for logger in as_list(config.trainer.logger):
        options = getattr(logger, "init_args", {})
        for name, value in described.items():
            if name in options and options[name] is None:
                options[name] = value


class Record:
    """Of one command.

    Args:
        start: where it began.
        watches: what its callbacks saw.
        begun: of ``time.monotonic``, when it did.
    """

    def __init__(self, start: Start, watches: Watches, begun: float) -> None:
        self.start, self.watches, self.begun = start, watches, begun
        self.config = start.config

    @property
    def results(self) -> Path:
        """The file of result lines."""
        return Path(self.config.results) / f"{self.start.task}.jsonl"

    def check_results(self) -> None:
        """Make sure, before anything is measured, that a line can be added."""
        check_writable(self.results)

    def log_config(self, trainer: Any) -> None:
        """What was asked for, for the loggers beside the run directory's own."""
        config = self.config.as_dict()
        parts = {name: config[name] for name in ("name", "seed_everything", "model", "data")}
        options = {k: v for k, v in config["trainer"].items() if k not in ("logger", "callbacks")}
        for logger in trainer.loggers[1:]:
            logger.log_hyperparams({**parts, "trainer": options, "config_hash": self.start.digest})

    def log_dataset(self, trainer: Any) -> None:
        """The data's true name and size, known once they are read."""
        for logger in trainer.loggers[1:]:
            described = trainer.datamodule.describe()
            kept = ("dataset", "fingerprint", "n_train", "n_test")
            logger.log_hyperparams({name: described[name] for name in kept if name in described})

    def finish(self, trainer: Any, asked: Sequence[str]) -> None:
        """Mark the run's directory as finished, and say what its training was and what is next.

        Raises:
            ValueError: nothing was trained.
        """
        watches = self.watches
        if not self.start.directory.last.is_file():
            begun = self.config.ckpt_path or "the options"
            raise ValueError(
                f"Expected at least one step of training, but {begun} left none: raise "
                "`trainer.max_epochs` or `trainer.max_steps`."
            )
        # Over all starts of a run that was resumed.
        seconds = round(watches.timer.time_elapsed("train"), 1)
        record: dict[str, Any] = {"steps": trainer.global_step, "seconds": seconds}
        described = trainer.datamodule.describe()
        record["data"] = {k: described[k] for k in ("dataset", "fingerprint", "n_train")}
        if watches.speed.trained is not None:
            record["speed"] = watches.speed.trained
            rank_zero_info(f"Trained at {in_words(watches.speed.trained)}.")
        if watches.numbers is not None and watches.numbers.skipped:
            record["skipped"] = watches.numbers.skipped
        record["trained"] = watches.trained_in.trained
        if names := getattr(trainer.datamodule, "classes", None):
            self.start.directory.write(CLASSES, json.dumps(list(names)))
        self.start.directory.finish(record)
        rank_zero_info(f"Finished: {self.start.directory.path}")
        values = trainer.callback_metrics.items()
        found = [f"{name} {float(v):.4g}" for name, v in values if name.startswith("val/")]
        if found:
            rank_zero_info(f"Last validation: {', '.join(found)}.")
        rank_zero_info(f"Checkpoint: {self.start.directory.last}")
        rank_zero_info(f"Next: {self._test_command(asked)}")

    def _test_command(self, asked: Sequence[str]) -> str:
        """What tests the weights of a finished training, whose command line was `asked`."""
        kept: list[str] = []
        values = iter(asked[1:])
        for argument in values:
            if argument in ("--fresh", "--ckpt_path"):
                next(values, None)
            elif not argument.startswith(("--fresh=", "--ckpt_path=")):
                kept.append(argument)
        if len(kept) < len(asked) - 1:  # Another run than the one that these options find.
            kept.append(f"--ckpt_path={self.start.directory.last}")
        return shlex.join(["python", "-m", f"tasks.{self.start.task}", "test", *kept])

    def add(self, trainer: Any, model: Any) -> None:
        """Add the line of a test.

        Raises:
            ValueError: nothing was tested.
        """
        if not hasattr(model, "metrics"):
            raise ValueError(
                "Expected `trainer.limit_test_batches` to leave a batch to test on, but got "
                f"{trainer.limit_test_batches}."
            )
        config, watches = self.config, self.watches
        record = {
            "format": FORMAT,
            "task": self.start.task,
            "name": config.name,
            "seed": config.seed_everything,
            "config_hash": self.start.digest,
            **self._describe_checkpoint(data := trainer.datamodule.describe()),
            **data,
            "recipe": portable(self.start.recipe),
            **model.metrics,
            "seconds": round(time.monotonic() - self.begun, 1),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **watches.trained_in.here,
        }
        if watches.trained_in.trained:
            record["trained"] = watches.trained_in.trained  # as the weights themselves tell
            (record.get("finished") or {}).pop("trained", None)
        if watches.speed.tested is not None:
            record["speed"] = watches.speed.tested
            rank_zero_info(f"Tested at {in_words(watches.speed.tested)}.")
        limit = trainer.limit_test_batches
        if isinstance(limit, int) or limit < 1:
            record["limited"] = limit  # A part of the test set; stands in no table.
        path = self.results
        append_result(path, record)
        rank_zero_info(f"Added a line to {path}")
        self.log_dataset(trainer)
        model.print_report(record)

    def _describe_checkpoint(self, data: dict[str, Any]) -> dict[str, Any]:
        """Where the weights come from that were tested on `data`."""
        config = self.config
        if config.ckpt_path is None:
            official = config.model.get("official")
            path = Path(official or config.model.weights).expanduser()
            selection = "official checkpoint" if official else PRETRAINED
            described: dict[str, Any] = {"checkpoint": path.name, "selection": selection}
            if path.is_file():  # A published name says itself which weights it means.
                described["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            return described
        path = Path(config.ckpt_path)
        finished = self.start.directory.trained(path)
        if finished and other_data(finished, data):
            finished = None
        best = path.stem == "best"
        selection = "last epoch" if finished and not best else self._selection(path)
        if finished and best and data.get("held_out"):
            selection = HELD_OUT
        described = {"checkpoint": path.name, "selection": selection, "finished": finished}
        if best:
            described["epoch"] = epoch_of(path)
        if not finished:
            described |= self._of_another_run(path, Path(config.runs) / self.start.task, data)
        return described

    def _of_another_run(self, checkpoint: Path, runs: Path, data: dict[str, Any]) -> dict[str, Any]:
        """Of a checkpoint that ends a finished run of another recipe, or on other data.

        Which, and what differs.
        """
        finished = finished_fit(checkpoint)
        name = name_of(checkpoint, runs) if finished else None
        recipe = recipe_in(checkpoint) if name else None
        if name is None or recipe is None:
            return {}
        recipes = portable(recipe), portable(self.start.recipe)
        changed = [option for option, _, _ in differences(*recipes)]
        if "start" in recipe:  # It continued another run, which no `test` asks for.
            changed.append("start")
        if other_data(finished or {}, data):
            changed.append("data")
        return {"selection": last_epoch_of(name), "finished": finished, "changed": changed}

    def _selection(self, checkpoint: Path) -> str:
        """What a checkpoint is that does not end a finished run of the recipe tested."""
        if checkpoint.stem == "best" and self.start.module.MONITOR is not None:
            return f"best by {self.start.module.MONITOR[0]}"
        own = checkpoint.resolve() == self.start.directory.last.resolve()
        return "unfinished run" if own else f"given: {checkpoint.stem}"
