"""Load weights trained with the official code, and write them without pickle.

Its checkpoints are pickled dicts of epoch, best accuracy, optimiser and ``state_dict``, with the
``module.`` prefix of DataParallel on every key.

    python -m cnsn.checkpoint convert PATH OUT.safetensors

https://github.com/amazon-science/crossnorm-selfnorm
"""

from __future__ import annotations

import errno
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["convert", "key_report", "load_official", "not_finite", "read_state_dict"]

Net = TypeVar("Net", bound=nn.Module)
LISTED_KEYS = 8


class _Ignored:
    """Stands for a NumPy number or options in a checkpoint: none is a weight."""

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What pickles of NumPy numbers call, under the names of NumPy 1 and 2.
NUMPY_NUMBERS: list[Any] = [
    (_Ignored, f"numpy.{name}")
    for name in ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype")
]
# The options that torchvision's training scripts keep beside the weights.
IGNORED: list[Any] = [*NUMPY_NUMBERS, (_Ignored, "argparse.Namespace")]
# Of batches that a batch norm has seen, which files of old or of other libraries do without.
COUNTER = "num_batches_tracked"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in `path`, without the prefixes of DataParallel; nothing in it is executed.

    They may stand under ``state_dict``, or ``model`` as in torchvision's training scripts.

    Args:
        path: a file of ``torch.save``, or one that ends in ``.safetensors``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, but there is no such file.")
    try:
        content = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    except (MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # A damaged file fails wherever the damage is, in any way.
        # One cut short sends torch to places before its start, which is no fault of the disk.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(
            f"Expected {path} to be a checkpoint of tensors and plain values, but it could not be "
            f"read safely ({_reason(error)}). Nothing in it was executed; download it again, or "
            "save it anew as torch.save(net.state_dict(), path)."
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"Expected {path} to hold a state dict of tensors, but it does not.")
    if odd := [str(key)[:80] for key, value in content.items() if not _is_plain(value)]:
        raise ValueError(
            f"Expected {path} to store every value of its tensors, but {odd[0]!r} claims more than "
            "there are, or is of a kind that no weights have: save it anew as "
            "torch.save(net.state_dict(), path)."
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is as large as its storage, so that using it takes no other memory."""
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _reason(error: Exception) -> str:
    """What was wrong, without torch's advice to trust the file."""
    text = str(error.__context__ or error)
    if named := re.search(r"GLOBAL (\S+)", text):
        text = f"it asks for {named[1]}"
    # May quote the file: nothing of it may steer the terminal.
    shown = "".join(letter for letter in text.partition("\n")[0][:200] if letter.isprintable())
    return shown or type(error).__name__


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read_pickle(path: Path) -> Any:
    # torch.save compresses nothing, so that what is in a file is no larger than the file.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if sum(member.file_size for member in file.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than its size, as bombs do")
    with torch.serialization.safe_globals(IGNORED):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    return _safetensors().load_file(path)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Expected the package safetensors for such files, but it is not installed: "
            "pip install safetensors"
        ) from error
    return safetensors.torch


def convert(path: str | Path, out: str | Path) -> dict[str, Tensor]:
    """Write the weights in `path` to the new file `out`, which holds tensors and no code.

    Args:
        path: see :func:`read_state_dict`.
        out: ends in ``.safetensors``; its keys are without the prefixes of DataParallel.

    Returns:
        The weights.

    Raises:
        FileNotFoundError: there is no such file, or no folder for the new one.
        FileExistsError: `out` exists; it is left as it is.
        ValueError: `out` has another ending, or `path` cannot be read.
    """
    out = Path(out)
    if not _is_safetensors(out):
        raise ValueError(f"Expected the new file's name to end in .safetensors, but got {out}.")
    if out.exists():
        raise FileExistsError(
            f"Expected {out} to be a new file, but it exists: remove it or choose another name."
        )
    if not out.parent.is_dir():
        raise FileNotFoundError(f"Expected the folder {out.parent}, but there is none: create it.")
    save = _safetensors().save
    state = read_state_dict(path)
    # Copies, for the format knows no shared memory.
    content = save({key: value.clone() for key, value in state.items()}, metadata={"format": "pt"})
    unfinished = out.with_name(f"{out.name}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.rename(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return state


def load_official(net: Net, path: str | Path) -> Net:
    """Load an official checkpoint into `net`, strictly, and return it.

    Args:
        net: the same network, with the layers inserted as in the checkpoint.
        path: a file written by the official training scripts, a bare state dict, or one of these
            converted to ``.safetensors``.

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
    """How the keys and shapes of `state` differ from those of `net`; empty where they do not.

    Without any counter of batches it fits: those of `net` then stay.
    """
    own = net.state_dict()
    counted = any(key.endswith(COUNTER) for key in state)
    missing = [key for key in own if key not in state and (counted or not key.endswith(COUNTER))]
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


def not_finite(state: Mapping[str, Tensor]) -> str:
    """Which tensors of `state` hold NaN or infinity, in words; empty where none does."""
    return ", ".join(
        [key for key, value in state.items() if not value.isfinite().all()][:LISTED_KEYS]
    )


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return f"0 keys are {what}"
    shown = ", ".join(keys[:LISTED_KEYS]) + (", ..." if len(keys) > LISTED_KEYS else "")
    return f"{len(keys)} keys are {what}: {shown}"
