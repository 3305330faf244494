"""What callbacks may do to a run, as their hooks tell, and which of Lightning's are refused."""

from __future__ import annotations

import pkgutil
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from tasks.runs.signature import defaults_of

__all__ = ["check_callbacks", "decides_by_validation", "hooks_of", "may_swap_weights"]

# Lightning's callbacks after which a stopped run ends with other weights, or which no network here
# can have, and what serves instead.
NOT_EXACT: dict[type[L.Callback], str] = {
    BackboneFinetuning: "`model.optimizer.head_lr_factor`",
    BatchSizeFinder: "`data.batch_size`",
    GradientAccumulationScheduler: "`trainer.accumulate_grad_batches`",
    LearningRateFinder: "`model.optimizer.lr`",
    ModelPruning: "torch.nn.utils.prune on the network of a finished run",
    SpikeDetection: "`--nonfinite skip`",
    StochasticWeightAveraging: "EMAWeightAveraging",
    Timer: "SIGTERM, as `timeout 2h` sends it (finished.json holds the seconds of a run)",
}


def check_callbacks(callbacks: Any) -> None:
    """Refuse what cannot be part of a run that resumes exactly.

    Args:
        callbacks: the option's value, one callback or several.

    Raises:
        ValueError: the message names the callback and what to use in its place.
    """
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        path = getattr(callback, "class_path", None)
        kind = None if path is None else pkgutil.resolve_name(path)
        for refused, instead in NOT_EXACT.items():
            if kind is not None and issubclass(kind, refused):
                raise ValueError(
                    "Expected `trainer.callbacks` to leave a run that resumes exactly, but "
                    f"{kind.__name__} does not: use {instead}."
                )


def hooks_of(path: str, options: dict[str, Any] | None = None) -> set[str]:
    """The names of the hooks that a callback fills.

    Args:
        path: of its class.
        options: of its constructor, which is given a LambdaCallback's hooks.
    """
    kind = pkgutil.resolve_name(path)
    if issubclass(kind, LambdaCallback):
        return {name for name, hook in (options or {}).items() if hook is not None}
    return _filled(kind)


def decides_by_validation(path: str, options: dict[str, Any] | None = None) -> bool:
    """Whether what a callback does to a run may follow from what validation has measured."""
    kind = pkgutil.resolve_name(path)
    if issubclass(kind, WeightAveraging):
        return False  # It exchanges weights while they are validated, and back.
    validates = any("validation" in name for name in hooks_of(path, options))
    return validates or "monitor" in defaults_of(kind)


def may_swap_weights(callback: L.Callback) -> bool:
    """Whether the network may have other weights within validation than around it."""
    kind = type(callback)
    known = kind.__module__.startswith(("lightning.", "tasks.")) and kind is not LambdaCallback
    hooks = _filled(kind) | set(vars(callback))  # a LambdaCallback's are its own
    validates = any("on_validation" in name for name in hooks)
    return isinstance(callback, WeightAveraging) or (validates and not known)


def _filled(kind: type) -> set[str]:
    bases = {*L.Callback.__mro__}
    own = {name for base in kind.__mro__ if base not in bases for name in vars(base)}
    return {name for name in own & set(vars(L.Callback)) - set(vars(object)) if name[0] != "_"}
