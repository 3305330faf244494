"""What a checkpoint says of the machines and the code that trained it."""

from __future__ import annotations

from typing import Any

import lightning as L

from tasks.runs.environment import commit_at_start, environment

__all__ = ["TrainedIn"]

Record = dict[str, Any]


class TrainedIn(L.Callback):
    """A checkpoint holds the environments in which its weights were trained, each of them once.

    Attributes:
        here: the environment of this process.
        trained: those of the steps so far, in order; a first one that is empty stands for steps
            of a checkpoint that does not say.
    """

    KEY = "environments"

    def __init__(self) -> None:
        commit_at_start()
        self.here: Record = {}
        self.trained: list[Record] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.here = environment(trainer.strategy.root_device)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Record
    ) -> None:
        stored = checkpoint.get(self.KEY)
        self.trained = list(stored) if isinstance(stored, list) else [{}]

    def on_train_batch_start(self, *_: Any) -> None:
        if self.here not in self.trained:
            self.trained.append(self.here)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Record
    ) -> None:
        checkpoint[self.KEY] = list(self.trained)
