"""The Weights & Biases logger of every task: add ``--config configs/logging/wandb.yaml``.

Online where a key is configured, else to disk, without a question or a wait; ``wandb sync`` uploads
what was written to disk (with ``--append`` where a run was resumed). A run directory has one
dashboard run for its training, and one for its test in the same group: the same command goes on
with the same one. A sweep's agent says itself which run it is.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from tasks.dispensable import dispensable

__all__ = ["DashboardLogger", "best_of", "offline_without_key"]

STEP = "trainer/global_step"
IDENTITY = "dashboard.json"
BETTER_LOW = ("error", "ece", "loss", "ce", "jsd")
BETTER_HIGH = ("accuracy", "miou", "iou")


class DashboardLogger(WandbLogger):
    """Lightning's logger with the project's conventions. The command line sets what is None.

    Args:
        project: that runs are logged to.
        entity: user or team; None takes the key's.
        save_dir: the run's directory.
        name: shown in the dashboard.
        group: task and configuration, which training and tests of all seeds share.
        job_type: "fit" or "test".
        tags: of the run, such as task, network and method.
        notes: a text of the user's.
    """

    def __init__(
        self,
        *,
        project: str = "cnsn",
        entity: str | None = None,
        save_dir: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
    ) -> None:
        options: dict[str, Any] = {"entity": entity, "group": group, "job_type": job_type}
        options |= {"tags": None if tags is None else list(tags), "notes": notes}
        super().__init__(name=name, project=project, save_dir=save_dir or ".", **options)
        self._defined: set[str] = set()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The dashboard's run, begun at its first use."""
        if self._experiment is None:
            offline_without_key()
            if self.save_dir is not None and "WANDB_RUN_ID" not in os.environ:
                folder = Path(self.save_dir)
                job = self._wandb_init["job_type"]
                self._wandb_init["id"] = self._id = _identity(folder, job or "fit")
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As Lightning's; a curve's best value, by its name, stands in the run's summary."""
        for name in metrics.keys() - self._defined:
            self._defined.add(name)
            if best := best_of(name):
                self.experiment.define_metric(name, step_metric=STEP, summary=f"{best},last")
        super().log_metrics(metrics, step)


def best_of(name: str) -> str | None:
    """ "min" or "max" for a curve that has a better direction, by the last word of its name.

    A test has one value each, and no better one.
    """
    split, _, quantity = name.partition("/")
    last = quantity.rpartition("_")[2]
    if split in ("train", "val") and last in BETTER_LOW:
        return "min"
    return "max" if split == "val" and last in BETTER_HIGH else None


def _identity(folder: Path, job: str) -> str:
    """Of the dashboard run of a run directory's `job`; made up once, then read again."""
    path = folder / IDENTITY
    if path.is_file():
        found = json.loads(path.read_text())["id"]
    else:
        found = uuid.uuid4().hex[:8]
        with dispensable(path):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"id": found}) + "\n")
    return found if job == "fit" else f"{found}-{job}"


def offline_without_key() -> None:
    """Let the logger write to disk where no key is configured, instead of asking for one."""
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    keyed = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    if not keyed and not (netrc.is_file() and host in netrc.read_text(errors="ignore")):
        os.environ.setdefault("WANDB_MODE", "offline")
