"""The Weights & Biases logger of every task: add ``--config configs/logging/wandb.yaml``.

Online where a key is configured and the service answers, else to disk, without a question or a long
wait; ``wandb sync`` uploads what was written to disk (with ``--append`` where a run was resumed). A
run directory has one dashboard run for its training, and one for its test: the same command goes on
with the same one. A sweep's agent says itself which run it is. Groups: see tasks/engine/titles.py.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import ssl
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from data.errors import quoted

__all__ = ["DashboardLogger", "best_of", "offline_without_key", "unreachable"]
from tasks.runs.dispensable import dispensable

__all__ = ["DashboardLogger", "best_of", "offline_without_key"]

STEP = "trainer/global_step"
IDENTITY = "dashboard.json"
# Seconds to wait for a service that does not answer, and for one that does not begin a run.
PATIENCE, LONGEST_START = 5, 30
BETTER_LOW = ("error", "ece", "loss", "ce", "jsd")
BETTER_HIGH = ("accuracy", "miou", "iou")


class DashboardLogger(WandbLogger):
    """Lightning's logger with the project's conventions. The command line sets what is None.

    Args:
        project: that runs are logged to.
        entity: user or team; None takes the key's.
        save_dir: the run's directory.
        name: shown in the dashboard.
        group: task, data, network, method and what else was changed, which all seeds share.
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
            self._begin()
        return super().experiment

    def _begin(self) -> None:
        """Begin the run online, or to disk where the service does not answer or refuses it."""
        import wandb

        if os.environ.get("WANDB_MODE", "online") == "online":
            why = unreachable()
            if not why:
                self._wandb_init["settings"] = wandb.Settings(init_timeout=LONGEST_START)
                try:
                    _ = super().experiment
                    return
                except wandb.Error as error:
                    why = quoted(error)
            rank_zero_info(f"W&B is used offline, as {why}; `wandb sync` uploads what is on disk.")
            self._wandb_init["mode"] = "offline"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As Lightning's; a curve's best value, by its name, stands in the run's summary.

        NaN is no value, and is left out.
        """
        # Tables and pictures come this way too.
        gaps = {k for k, v in metrics.items() if isinstance(v, float) and math.isnan(v)}
        metrics = {k: v for k, v in metrics.items() if k not in gaps}
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


def unreachable() -> str:
    """Why the service does not answer; "" where it does, whatever it answers.

    In a thread, as the search for a host's address has no time limit of its own.
    """
    base = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_fault_of(base)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    fault = found[0] if found else f"not in {PATIENCE} seconds"
    return f"{base} does not answer ({fault})" if fault else ""


def _fault_of(base: str) -> str:
    try:
        urllib.request.urlopen(base, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Certificates are for the library to judge, which may know others.
        return "" if isinstance(reason, ssl.SSLCertVerificationError) else quoted(reason)
    return ""


def offline_without_key() -> None:
    """Let the logger write to disk where no key is configured, instead of asking for one."""
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    keyed = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    if not keyed and not (netrc.is_file() and host in netrc.read_text(errors="ignore")):
        os.environ.setdefault("WANDB_MODE", "offline")
