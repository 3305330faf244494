"""Pretrained weights, asked for by `--model.weights`: a torchvision weight name or a file.

They are loaded into the plain network, before CrossNorm and SelfNorm are inserted; a file that has
SelfNorm's parameters, after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from cnsn.checkpoint import key_report, read_state_dict
from data.files import only_one

__all__ = ["holds_layers", "load_weights", "named_state_dict"]

# Parts of SelfNorm, in ours and in the official checkpoints.
GATES = ("g_fc", "g_bn")


def holds_layers(weights: str) -> bool:
    """Whether `weights` is a file that has parameters of SelfNorm."""
    path = Path(weights).expanduser()
    if not path.is_file():
        return False
    return any(f".{name}." in key for key in read_state_dict(path) for name in GATES)


def load_weights(net: nn.Module, weights: str, *, heads: Sequence[str] = ("fc.",)) -> bool:
    """Load `weights` into `net`, in place; every key must fit, but for heads of another size.

    Args:
        net: a network without the layers inserted.
        weights: a torchvision weight name such as ``ResNet50_Weights.IMAGENET1K_V2``, or a file.
        heads: prefixes of the output layers, which keep their fresh values where the weights are
            of another number of classes.

    Returns:
        Whether the heads were loaded too, so that the network needs no training.

    Raises:
        ValueError: an unknown name, a damaged file, or weights of another network.
        OSError: the weights could not be fetched; the message says how to get them by hand.
    """
    path = Path(weights).expanduser()
    state = read_state_dict(path) if path.is_file() else named_state_dict(weights)
    own = net.state_dict()
    fresh = [
        key
        for key in own
        if key.startswith(tuple(heads)) and key in state and state[key].shape != own[key].shape
    ]
    if fresh:
        rank_zero_info(f"{weights}: {', '.join(fresh)} start anew, for another number of classes.")
        state = {**state, **{key: own[key] for key in fresh}}
    if report := key_report(net, state):
        raise ValueError(
            f"Expected `weights` to be those of {type(net).__name__}, but {weights} differs: "
            f"{report}."
        )
    net.load_state_dict(state, strict=True)
    return not fresh


def named_state_dict(name: str) -> dict[str, Tensor]:
    """The weights that torchvision publishes under `name`, downloaded once into torch's cache.

    Raises:
        ValueError: torchvision has no such weights.
        OSError: the download failed.
    """
    from torchvision.models import get_weight

    try:
        weight = get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"Expected `weights` to be a file or a torchvision weight name such as "
            f"ResNet50_Weights.IMAGENET1K_V2, but got {name!r}: there is no such file and "
            f"torchvision has no such name. `weights: null` starts from random ones."
        ) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weight.url).path).name
    try:
        with _fetched_once(file):
            return dict(weight.get_state_dict(progress=True, check_hash=True))
    except (URLError, TimeoutError, ConnectionError) as error:
        raise OSError(
            f"Expected to fetch {name}, but {weight.url} could not be reached ({error}): download "
            f"it on a machine with a network and put it into {file}, or give its path as "
            "`--model.weights`. `--model.weights null` starts from random ones."
        ) from error


@contextmanager
def _fetched_once(file: Path) -> Iterator[None]:
    """Of the processes that want a file that is not there, one fetches it and the others wait."""
    if file.is_file():
        yield
        return
    with only_one(file.with_name(f".{file.name}.lock")):
        for part in file.parent.glob(f"{file.name}.*.partial"):  # torch's, of killed processes
            part.unlink()
        yield
