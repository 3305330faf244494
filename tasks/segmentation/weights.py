"""Pretrained weights of segmentation networks, asked for by `--model.weights`.

A torchvision name of a classifier, one of segmentation_models_pytorch or a classifier's file go
into the backbone, without the classifier's head. Names and files of whole segmentation networks
(such as ``FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1``) go into the network, heads of another
number of classes excepted. Files that hold SelfNorm, as the official pretrained ResNet-50 does,
need the layers inserted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from cnsn.checkpoint import key_report, load_official, read_state_dict
from tasks.engine.weights import load_weights, named_state_dict

__all__ = ["as_classifier", "holds_selfnorm", "load_backbone_with_selfnorm", "load_pretrained"]

_OWN_PREFIX = "network."  # of the suite's own checkpoints


def holds_selfnorm(weights: str) -> bool:
    """Whether `weights` is a file with SelfNorm's parameters."""
    if not Path(weights).expanduser().is_file():
        return False
    return any(".selfnorm." in key for key in read_state_dict(Path(weights).expanduser()))


def load_pretrained(network: nn.Module, weights: str, heads: Sequence[str]) -> bool:
    """Load `weights` into a network of :mod:`tasks.segmentation.networks`, in place.

    Args:
        network: before the layers are inserted.
        weights: a file, or a weight name of torchvision or segmentation_models_pytorch.
        heads: see :func:`tasks.engine.weights.load_weights`.

    Returns:
        Whether the heads were loaded too.

    Raises:
        ValueError: an unknown name, a damaged file, or weights of another network.
        OSError: the weights could not be fetched; the message says how to get them by hand.
    """
    path = Path(weights).expanduser()
    encoder = getattr(network, "encoder_name", None)
    if path.is_file():
        state = read_state_dict(path)
    elif encoder is not None and "." not in weights:
        state = _smp_state_dict(encoder, weights)
    else:
        state = named_state_dict(weights)
    state = {key.removeprefix(_OWN_PREFIX): value for key, value in state.items()}
    if "conv1.weight" in state:
        _load_backbone(network, state, weights)
        return False
    if path.is_file() or any(key.startswith("backbone.") for key in state):
        return load_weights(network, str(path) if path.is_file() else weights, heads=heads)
    raise ValueError(
        f"Expected `weights` to be those of a ResNet or of {type(network).__name__}, but "
        f"{weights} holds {', '.join(list(state)[:3])}, ..."
    )


def _load_backbone(network: nn.Module, state: dict[str, Tensor], weights: str) -> None:
    classifier = as_classifier(network, state)
    if report := key_report(classifier, state):
        raise ValueError(
            f"Expected `weights` to be those of the backbone of {type(network).__name__}, but "
            f"{weights} differs: {report}."
        )
    classifier.load_state_dict(state, strict=True)
    rank_zero_info(f"{weights} is loaded into the backbone; the heads start anew.")


def load_backbone_with_selfnorm(network: nn.Module, weights: str) -> None:
    """Load a pretrained classifier with SelfNorm into the backbone of the network, strictly.

    Args:
        network: with SelfNorm inserted in the backbone at all stages.
        weights: an official checkpoint, or one of the classification task.

    Raises:
        ValueError: the file is of another network, or has the layers elsewhere.
    """
    path = Path(weights).expanduser()
    state = read_state_dict(path)
    if all(key.startswith(_OWN_PREFIX) for key in state):
        state = {key.removeprefix(_OWN_PREFIX): value for key, value in state.items()}
        _load_backbone(network, state, weights)
        return
    load_official(as_classifier(network, state), path)
    rank_zero_info(f"{weights} is loaded into the backbone, SelfNorm included.")


def as_classifier(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The network's backbone, the same modules, under a classifier like that in `state`.

    So a classifier's checkpoint loads strictly, and its head is dropped with this module.
    """
    backbone: Any = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f"Expected a network with the attribute `backbone`, but {type(network).__name__} has "
            "none: give weights of the whole network."
        )
    classifier = nn.Module()
    for name, child in backbone.named_children():
        classifier.add_module(name, child)
    if "fc.weight" in state:
        classes, features = state["fc.weight"].shape
        classifier.fc = nn.Linear(features, classes)
    return classifier


def _smp_state_dict(encoder: str, name: str) -> dict[str, Tensor]:
    """Weights that segmentation_models_pytorch publishes for an encoder."""
    import segmentation_models_pytorch as smp
    from huggingface_hub.errors import HfHubHTTPError

    settings = smp.encoders.encoders[encoder]["pretrained_settings"]
    if name not in settings:
        raise ValueError(
            f"Expected `weights` to be a file, a torchvision weight name such as "
            f"ResNet50_Weights.IMAGENET1K_V2 or one of segmentation_models_pytorch's for {encoder} "
            f"({', '.join(settings)}), but got {name!r}."
        )
    try:
        found = smp.encoders.get_encoder(encoder, weights=name)
    except (OSError, HfHubHTTPError) as error:
        repository = settings[name]["repo_id"]
        raise OSError(
            f"Expected to fetch {name!r} of {encoder}, but https://huggingface.co/{repository} "
            f"could not be reached ({type(error).__name__}): on a machine with a network run `hf "
            f"download {repository} --revision {settings[name]['revision']}` and copy its cache "
            "folder (~/.cache/huggingface/hub), or give a torchvision file as `--model.weights`. "
            "`--model.weights null` starts from random ones."
        ) from error
    return dict(found.state_dict())
