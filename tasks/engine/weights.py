"""Pretrained weights, asked for by `--model.weights`: a weight name or a file.

They are loaded into the plain network, before CrossNorm and SelfNorm are inserted; a file that has
SelfNorm's parameters, after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from cnsn.checkpoint import read_state_dict
from data.files import only_one
from tasks.engine.fitting import fit_weights
from tasks.engine.heads import head_of

__all__ = ["holds_layers", "load_state", "load_weights", "named_state_dict"]

# Parts of SelfNorm, in ours and in the official checkpoints.
GATES = ("g_fc", "g_bn", "selfnorm")


def holds_layers(weights: str) -> bool:
    """Whether `weights` is a file that has parameters of SelfNorm."""
    path = Path(weights).expanduser()
    if not path.is_file():
        return False
    return any(f".{name}." in key for key in read_state_dict(path) for name in GATES)


def load_weights(net: nn.Module, weights: str, *, heads: Sequence[str] = ("fc.",)) -> bool:
    """Load `weights` into `net`, in place, and say what was loaded and what starts anew.

    Args:
        net: a network, with or without the layers inserted, as the weights are.
        weights: a weight name of torchvision such as ``ResNet50_Weights.IMAGENET1K_V2``, or of timm
            such as ``resnet50d.ra2_in1k``, or a file.
        heads: prefixes of the output layers beside the one that is found; they keep their fresh
            values where the weights have none, or of another number of classes.

    Returns:
        Whether the heads were loaded too, so that the network needs no training.

    Raises:
        ValueError: an unknown name, a damaged file, or weights of another network.
        OSError: the weights could not be fetched; the message says how to get them by hand.
    """
    path = Path(weights).expanduser()
    state = read_state_dict(path) if path.is_file() else named_state_dict(weights)
    return load_state(net, state, weights, heads=heads)


def load_state(
    net: nn.Module, state: Mapping[str, Tensor], source: str, *, heads: Sequence[str]
) -> bool:
    """As :func:`load_weights`, of weights that were read from `source`."""
    head = head_of(net)
    fitted = fit_weights(net, state, source, [*heads, *([f"{head}."] if head else [])])
    net.load_state_dict(fitted.state, strict=True)
    if fitted.new or fitted.left or fitted.strip or fitted.add:
        rank_zero_info(f"{source}: {fitted}")
    return not fitted.new


def named_state_dict(name: str) -> dict[str, Tensor]:
    """The weights that torchvision or timm publishes under `name`, downloaded once.

    Raises:
        ValueError: neither has such weights.
        OSError: the download failed.
    """
    from torchvision.models import get_weight

    try:
        weight = get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        if _timm_has(name):
            return _timm_state_dict(name)
        raise ValueError(
            f"Expected `weights` to be a file, a torchvision weight name such as "
            f"ResNet50_Weights.IMAGENET1K_V2 or one of timm's such as resnet50d.ra2_in1k, but got "
            f"{name!r}: there is no such file and no such name. `weights: null` starts from random "
            "ones."
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


def _timm_has(name: str) -> bool:
    try:
        import timm
    except ModuleNotFoundError:
        return False
    return bool(timm.is_model(name.partition(".")[0])) and timm.is_model_pretrained(name)


def _timm_state_dict(name: str) -> dict[str, Tensor]:
    """Weights that timm publishes, from its cache or the Hugging Face Hub."""
    import timm
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except (OSError, HfHubHTTPError) as error:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", name)
        raise OSError(
            f"Expected to fetch {name}, but https://huggingface.co/{repository} could not be "
            f"reached ({type(error).__name__}): on a machine with a network run `hf download "
            f"{repository}` and copy its cache folder (~/.cache/huggingface/hub), or give a file "
            "as `--model.weights`. `--model.weights null` starts from random ones."
        ) from error
