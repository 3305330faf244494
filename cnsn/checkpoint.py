"""Load weights trained with the official code.

Its checkpoints are pickled dicts of epoch, best accuracy, optimiser and ``state_dict``, with the
``module.`` prefix of DataParallel on every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["key_report", "load_official", "read_state_dict"]

Net = TypeVar("Net", bound=nn.Module)
LISTED_KEYS = 8


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in `path`, without the prefixes of DataParallel; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, but there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # A damaged file fails wherever the damage is, in any way.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"Expected {path} to be a checkpoint of tensors and plain values, but it could not be "
            f"read safely ({reason}). Nothing in it was executed; download it again, or save it "
            "anew as torch.save(net.state_dict(), path)."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"Expected {path} to hold a state dict of tensors, but it does not.")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_official(net: Net, path: str | Path) -> Net:
    """Load an official checkpoint into `net`, strictly, and return it.

    Args:
        net: the same network, with the layers inserted as in the checkpoint.
        path: a file written by the official training scripts, or a bare state dict.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is unsafe or unreadable, or its keys or shapes are not those of
            `net`; the message names what is missing, unexpected or of another shape. The network
            is then unchanged.
    """
    state = read_state_dict(path)
    if report := key_report(net, state):
        raise ValueError(
            f"Expected {path} to hold the weights of {type(net).__name__} with the layers inserted "
            f"at the same position, but {report}."
        )
    net.load_state_dict(state, strict=True)
    return net


def key_report(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """How the keys and shapes of `state` differ from those of `net`; empty where they do not."""
    own = net.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if not (missing or unexpected or reshaped):
        return ""
    return (
        f"{_listed('missing', missing)}; {_listed('unexpected', unexpected)}; "
        f"{_listed('of another shape', reshaped)}"
    )


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return f"0 keys are {what}"
    shown = ", ".join(keys[:LISTED_KEYS]) + (", ..." if len(keys) > LISTED_KEYS else "")
    return f"{len(keys)} keys are {what}: {shown}"
