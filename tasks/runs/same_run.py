"""What of a run has to be the same when it goes on, beside its options: its data and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from tasks.runs.resume import StepCheckpoint

__all__ = ["RunCheckpoint", "SameRun", "place_users_checkpoints", "users_checkpoints"]

DATA, STOPPED = "training_data", "should_stop"


class SameRun(L.Callback):
    """A run goes on with the data that it began with, and not at all once it was to stop.

    A checkpoint holds the training data's fingerprint; one of an earlier version has none and goes
    on. What another run starts from (``fit --ckpt_path``) may have had other data, which is said.

    Args:
        folder: of this run's own checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fingerprint: str | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and hasattr(data, "training_fingerprint"):
            self._fingerprint = data.training_fingerprint()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[STOPPED] = trainer.should_stop
        if self._fingerprint is not None:
            checkpoint[DATA] = self._fingerprint

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit":
            return
        goes_on = Path(str(trainer.ckpt_path)).resolve().parent == self.folder.resolve()
        before, now = checkpoint.get(DATA), self._fingerprint
        if goes_on and checkpoint.get(STOPPED):
            trainer.should_stop = True
        if before in (None, now) or now is None:
            return
        if goes_on:
            raise ValueError(
                f"Expected the training data that the run began with, of fingerprint {before}, but "
                f"got others, of fingerprint {now}: put the former back, or train on the latter "
                "with `--fresh true`, beside it."
            )
        rank_zero_info(
            f"The checkpoint was trained on data of fingerprint {before}, this run on others, of "
            f"fingerprint {now}."
        )


class RunCheckpoint(ModelCheckpoint):
    """A run's own `last` and `best`: of another class than a user's ModelCheckpoints beside them.

    `best` follows no figure that is NaN, not even where there is no other yet. The run's folder may
    have moved since its state was saved.
    """

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        known = current is not None and not bool(current.isnan())
        return known and super().check_monitor_top_k(trainer, current)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("callbacks", {})
        before = self.state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)
        if self.state_key not in states and before in states:  # of an earlier version
            states[self.state_key] = states.pop(before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        state = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = here(state.get(name, ""))
        state["best_k_models"] = {here(k): v for k, v in state.get("best_k_models", {}).items()}
        super().load_state_dict(state)


def users_checkpoints(trainer: L.Trainer) -> list[ModelCheckpoint]:
    """Those that are none of a run's own."""
    found = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return [c for c in found if not isinstance(c, RunCheckpoint | StepCheckpoint)]


def place_users_checkpoints(callbacks: list[L.Callback], folder: Path | None) -> list[L.Callback]:
    """A user's ModelCheckpoints write to `folder` unless they name another; None leaves them out.

    Lightning's own choice is a new folder at each start of a run, where they would forget which
    files are theirs.
    """
    if folder is None:
        return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder.resolve())
    return callbacks
