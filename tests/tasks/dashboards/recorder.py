"""What a dashboard is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger


class Told:
    """A Weights & Biases run, and all that it was given to write.

    Attributes:
        id, group, job, tags, name: of the run.
        config: as logged.
        history: every logged set of values.
        summaries: how a metric is summarised, by its name.
    """

    def __init__(self, run: Any) -> None:
        self.id, self.group, self.job = run.id, run.group, run.job_type
        self.tags, self.name, self.config = list(run.tags), run.name, run.config
        self.history: list[dict[str, Any]] = []
        self.summaries: dict[str, set[str]] = {}
        log, define = run.log, run.define_metric

        def noting(values: dict[str, Any], *args: Any, **options: Any) -> None:
            self.history.append(dict(values))
            log(values, *args, **options)

        def defining(name: str, *args: Any, summary: str = "", **options: Any) -> Any:
            self.summaries[name] = set(summary.split(",")) - {""}
            return define(name, *args, summary=summary or None, **options)

        run.log, run.define_metric = noting, defining

    @property
    def names(self) -> set[str]:
        """Of everything logged."""
        return {name for values in self.history for name in values}


def listen(patch: pytest.MonkeyPatch) -> list[Told]:
    """The runs that are begun from now on, in their order."""
    import wandb

    begin, runs = wandb.init, []

    def init(*args: Any, **options: Any) -> Any:
        run = begin(*args, **options)
        runs.append(Told(run))
        return run

    patch.setattr(wandb, "init", init)
    return runs


class Recorder(Logger):
    """Keeps the names of what is logged, also of tables and pictures, in a file of `save_dir`."""

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__()
        assert save_dir is not None
        self.path = Path(save_dir) / "recorded.json"

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> int:
        return 0

    def _add(self, *names: str) -> None:
        known = json.loads(self.path.read_text()) if self.path.is_file() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(sorted({*known, *names})))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._add(*metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not of interest."""

    def log_table(self, key: str, **_: Any) -> None:
        self._add(key)

    def log_image(self, key: str, images: Any, **_: Any) -> None:
        assert len(images)
        self._add(key)
