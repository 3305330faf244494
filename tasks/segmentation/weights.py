"""Pretrained weights of segmentation networks, asked for by `--model.weights`.

A torchvision name of a classifier, one of segmentation_models_pytorch or a classifier's file go
into the backbone, without the classifier's head. Names and files of whole segmentation networks
(such as ``FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1``) go into the network, heads of another
number of classes excepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from tasks.engine.weights import load_state, load_weights

__all__ = ["load_pretrained"]


def load_pretrained(network: nn.Module, weights: str, heads: Sequence[str]) -> bool:
    """Load `weights` into a segmentation network or its backbone, in place.

    Args:
        network: with or without the layers inserted, as the weights are.
        weights: a file, or a weight name of torchvision, timm or segmentation_models_pytorch.
        heads: see :func:`tasks.engine.weights.load_weights`.

    Returns:
        Whether the heads were loaded too.

    Raises:
        ValueError: an unknown name, a damaged file, or weights of another network.
        OSError: the weights could not be fetched; the message says how to get them by hand.
    """
    encoder = getattr(network, "encoder_name", None)
    is_file = Path(weights).expanduser().is_file()
    if is_file or encoder is None or encoder.startswith("tu-") or "." in weights:
        return load_weights(network, weights, heads=heads)
    return load_state(network, _smp_state_dict(encoder, weights), weights, heads=heads)


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
