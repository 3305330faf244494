"""What is saved when, and what holds where a checkpoint and the command line differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from tasks.runs.recipe import portable

__all__ = [
    "ExactResume",
    "RecipeInCheckpoint",
    "StepCheckpoint",
    "differences",
    "may_save",
    "validation_follows",
]

DEFAULT = "the default"


class StepCheckpoint(ModelCheckpoint):
    """Saves every N steps, but where no exact resume starts: see :func:`may_save`."""

    _steps = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any, **named: Any) -> None:
        if may_save(trainer, self._steps):
            super().on_train_batch_end(trainer, *arguments, **named)
        self._steps = trainer.global_step


def may_save(trainer: L.Trainer, steps: int) -> bool:
    """Whether a run can go on exactly from the end of the batch in progress.

    Not while gradients accumulate, which no checkpoint holds, and not at the end of an epoch
    without validation, which is saved a moment later as what it is.

    Args:
        trainer: within ``on_train_batch_end``.
        steps: of the optimiser, before the batch.
    """
    loop = trainer.fit_loop.epoch_loop
    ends = loop._num_ready_batches_reached() and not validation_follows(trainer)
    return trainer.global_step != steps and not ends


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether the batch in progress is one after which the network is validated."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def write_figures(trainer: L.Trainer) -> None:
    """Write what loggers keep in memory."""
    for logger in trainer.loggers:
        logger.save()


class ExactResume(L.Callback):
    """Lets a checkpoint from the last batch of an epoch resume with that epoch's validation.

    Lightning resumes behind it: the epoch's figures, its best checkpoint and what a task keeps of
    them would be missing. So the checkpoint says that validation has begun, which Lightning
    repeats. Where that batch was the last step, a run that counts steps is over for Lightning; it
    is given one step more until validation has run.

    What was logged up to a checkpoint is written with it, and the figures of its own step right
    after it: a run that resumes there does not log them again.
    """

    _validates_first = False
    _figures_due = False

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        write_figures(trainer)
        self._figures_due = True
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if progress.completed == progress.processed:
            return  # Not within `on_train_batch_end`.
        loops = checkpoint["loops"]["fit_loop"]
        batches = loops["epoch_loop.batch_progress"]
        if not validation_follows(trainer):
            return
        for count in (batches["total"], batches["current"]):
            count["completed"] = count["processed"]
        validation = loops["epoch_loop.val_loop.batch_progress"]
        done = validation["total"]["completed"]
        begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation["current"] = begun
        validation["total"] = {name: done + count for name, count in begun.items()}
        validation["is_last_batch"] = False
        checkpoint["validates_first"] = True

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        due = checkpoint.get("validates_first", False) and trainer.state.fn == "fit"
        self._validates_first = due and checkpoint["global_step"] == loop.max_steps

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._validates_first:
            trainer.fit_loop.epoch_loop.max_steps += 1

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self._figures_due:
            write_figures(trainer)
            self._figures_due = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        write_figures(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._validates_first:
            trainer.fit_loop.epoch_loop.max_steps -= 1
            self._validates_first = False


class RecipeInCheckpoint(L.Callback):
    """Checkpoints know their recipe; where the command line asks otherwise, it is obeyed, and said.

    A checkpoint holds the optimiser's learning rate, momentum and decay; what was typed replaces
    them, at the place in the schedule where the checkpoint stands.

    Args:
        recipe: of this run, as :func:`tasks.runs.recipe.recipe_of` makes it.
    """

    def __init__(self, recipe: dict[str, Any]) -> None:
        self.recipe = recipe
        self._differs = False
        self._optimizers: list[dict[str, Any]] = []  # what the checkpoint holds of them

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = self.recipe

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        stored = checkpoint.get("recipe")
        if not isinstance(stored, dict):
            return
        before, now = _without_places(stored, self.recipe)
        found = list(differences(before, now))
        self._differs = bool(found)
        if not found:
            return
        lines = [f"  {name}: {old} in the checkpoint, {new} is used" for name, old, new in found]
        rank_zero_info(
            "The options differ from those that the checkpoint was trained with, and they hold:\n"
            + "\n".join(lines)
        )
        self._optimizers = checkpoint.get("optimizer_states", [])
        if any(name == "model.optimizer.algorithm" for name, _, _ in found):
            for state in self._optimizers:
                state["state"] = {}
            rank_zero_info("The optimiser is another one and starts without a state.")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Parted into other groups, parameters cannot be told from one another by their places."""
        for optimizer, stored in zip(trainer.optimizers, self._optimizers, strict=False):
            own = optimizer.state_dict()
            sizes, before = (
                [len(group["params"]) for group in state["param_groups"]] for state in (own, stored)
            )
            if sizes != before:
                stored.update(own)
                rank_zero_info(
                    "The optimiser parts the parameters otherwise and starts without a state."
                )
        self._optimizers = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._differs:
            return
        asked_optimizers, asked_schedules = cast(Any, pl_module.configure_optimizers())
        for place, (optimizer, asked) in enumerate(
            zip(trainer.optimizers, asked_optimizers, strict=True)
        ):
            schedule: Any = trainer.lr_scheduler_configs[place].scheduler
            schedule.base_lrs = list(asked_schedules[place]["scheduler"].base_lrs)
            rates = [
                rate * factor(schedule.last_epoch)
                for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            ]
            for group, new, rate in zip(
                optimizer.param_groups, asked.param_groups, rates, strict=True
            ):
                group.update({key: value for key, value in new.items() if key != "params"})
                group["lr"] = rate
            schedule._last_lr = rates


def _without_places(stored: dict[str, Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Both recipes without places; as they are where they are of different kinds of data.

    A checkpoint's own word for that kind is not followed: to look it up would import it.
    """
    parts = [recipe.get(name) for recipe in (stored, asked) for name in ("data", "model")]
    if not all(isinstance(part, dict) for part in parts):
        return [stored, asked]
    same = stored["data"].get("class_path") == asked["data"].get("class_path")
    return [portable(stored), portable(asked)] if same else [stored, asked]


def differences(
    stored: dict[str, Any], asked: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of every option that differs; what a recipe lacks is its default."""
    for key in sorted({*stored, *asked}):
        old, new = stored.get(key, DEFAULT), asked.get(key, DEFAULT)
        if key == "start" and not prefix:
            continue  # Where this run starts is what is being loaded.
        if isinstance(old, dict) or isinstance(new, dict):
            one, other = (part if isinstance(part, dict) else {} for part in (old, new))
            yield from differences(one, other, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
