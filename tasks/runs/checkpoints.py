"""How checkpoints reach the disk: whole or not at all, read back before they replace an older one.

A checkpoint is written beside its place, synchronised with the disk, read back and compared, and
only then moved to its name. ``last.ckpt`` leaves the one before it as ``previous.ckpt``, from which
a run goes on where the disk has damaged the newer file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

__all__ = [
    "CheckpointNotSavedError",
    "DurableCheckpointIO",
    "damage_of",
    "described",
    "epoch_of",
    "missing_parts",
    "newest_readable",
    "recipe_in",
    "remove_parts",
    "set_aside_damaged",
    "write_checkpoint",
]

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
PART = ".part"
_CHUNK = 1 << 22


class CheckpointNotSavedError(OSError):
    """A checkpoint could not be written; the one before it is as it was."""


class _Writer:
    """Writes, and keeps the checksum of what it was given and the first error of the disk."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.checksum = 0
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._put(data)
        except OSError as error:  # torch's own message hides this one.
            self.error = self.error or error
            raise
        self.checksum = zlib.crc32(data, self.checksum)
        self.size += len(data)
        return len(data)

    def _put(self, data: Any) -> None:
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        """To the disk itself, not only to the system's memory."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write `checkpoint` to `path`, which holds the old file or the whole new one at any moment.

    Args:
        checkpoint: of tensors and plain values.
        path: its place; ``last.ckpt`` leaves the file before it as ``previous.ckpt``.

    Raises:
        CheckpointNotSavedError: the disk is full or refuses otherwise; old files are untouched.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    writer: _Writer | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = _Writer(part)
        torch.save(checkpoint, cast(Any, writer))  # It needs `write` and `flush` alone.
        writer.finish()
        _compare(part, writer)
        if path.name == LAST and path.is_file():
            _keep(path, path.with_name(PREVIOUS))
        os.replace(part, path)
        _synchronise(path.parent)
    except Exception as error:
        cause = error if writer is None else writer.error or error
        if not isinstance(cause, OSError):
            raise
        kept = f" {path.name} is as it was." if path.is_file() else ""
        goes_on = path.with_name(LAST).is_file()
        then = "resumes from the last checkpoint" if goes_on else "starts from its beginning"
        raise CheckpointNotSavedError(
            f"Expected room for a checkpoint in {path.parent}, but got: {cause.strerror or cause}."
            f"{kept} Make room, then run the same command: it {then}."
        ) from error
    finally:
        if writer is not None:
            _abandon(writer)
        part.unlink(missing_ok=True)


def _abandon(writer: _Writer) -> None:
    with contextlib.suppress(OSError):  # Of a full disk, which refuses the buffer's rest, too.
        writer.file.close()


def _compare(part: Path, writer: _Writer) -> None:
    """Read the file back from the disk: what it holds is what was written, and torch reads it."""
    checksum, size = 0, 0
    with part.open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # From the disk, where the system allows to ask for it.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(_CHUNK):
            checksum, size = zlib.crc32(chunk, checksum), size + len(chunk)
    if (checksum, size) != (writer.checksum, writer.size):
        raise OSError(
            f"{part.name} does not hold what was written to it ({size} of {writer.size} bytes "
            "came back, or others): the disk is not to be trusted"
        )
    torch.load(part, map_location="cpu", weights_only=True, mmap=True)


def _keep(path: Path, previous: Path) -> None:
    """Let `previous` be what `path` is now, which stays in its place."""
    link = previous.with_name(f"{previous.name}.{os.getpid()}{PART}")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous)
    except OSError:  # No links on this file system; a resume finds `previous` alone, too.
        link.unlink(missing_ok=True)
        os.replace(path, previous)


def _synchronise(folder: Path) -> None:
    """A new name is on the disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # Some network file systems know no such thing.
        os.fsync(descriptor)
    os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Delete what killed processes left half-written."""
    for part in folder.glob(f"*.ckpt.*{PART}"):
        part.unlink(missing_ok=True)


def set_aside_damaged(start: Path) -> None:
    """Rename a damaged ``last.ckpt``, which must never replace the good `start` before it.

    Args:
        start: from :func:`newest_readable`.
    """
    last = start.with_name(LAST)
    if start.name == PREVIOUS and last.is_file():
        os.replace(last, start.with_name(f"{LAST}.damaged"))


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, by its checksums; None for a good one.

    Raises:
        ValueError: it cannot be read now, which says nothing of what it holds.
    """
    try:
        with path.open("rb") as whole:  # A zip's reader takes an error of the disk for no zip.
            while whole.read(_CHUNK):
                pass
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
        if broken is not None:
            return f"the checksum of {broken} is wrong"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # A damaged file fails wherever the damage is, in any way.
        return str(error).partition("\n")[0] or type(error).__name__
    if not isinstance(content, dict) or not {"state_dict", "global_step"} <= set(content):
        return "it holds no training state"
    return None


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(
        f"Expected to read {path}, but got: {error.strerror or error}. It was left as it is: make "
        f"it readable, or move it away, and the run goes on from {PREVIOUS} where there is one."
    )


def _is_there(path: Path) -> bool:
    """Whether it is a file; unlike :meth:`Path.is_file`, never False for what may not be seen."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error


def described(path: Path) -> str:
    """Which checkpoint it is, and what it holds."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return f"{path.name}: step {content['global_step']}, epoch {content['epoch'] + 1}"


def missing_parts(path: Path, *, training: bool) -> list[str]:
    """What a file of weights lacks to be loaded as a checkpoint, or for training to go on."""
    needed = ["state_dict", "global_step", "epoch", "pytorch-lightning_version"]
    if training:
        needed += ["optimizer_states", "lr_schedulers", "loops"]
    if not zipfile.is_zipfile(path):  # of torch's older format, or safetensors: weights alone
        return needed
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return [name for name in needed if name not in content]


def recipe_in(path: Path) -> dict[str, Any] | None:
    """The recipe by which a checkpoint was trained; None where it holds none."""
    recipe = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("recipe")
    return recipe if isinstance(recipe, dict) else None


def epoch_of(path: Path) -> int:
    """After how many epochs a checkpoint was saved."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return int(content.get("epoch", -1)) + 1


def newest_readable(folder: Path) -> Path | None:
    """``last.ckpt``, or ``previous.ckpt`` with a warning where the other is damaged or missing.

    None where there is neither.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged, or one cannot be read now.
    """
    damages: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not _is_there(path):
            continue
        damage = damage_of(path)
        if damage is None:
            if damages:
                _warn(f"{damages[0]}. {path.name}, the checkpoint before it, is used instead.")
            return path
        damages.append(f"{path} is damaged: {damage}")
    if damages:
        raise ValueError(
            f"Expected a readable checkpoint in {folder}, but {'; '.join(damages)}. Start anew "
            "beside it with `--fresh true`, or delete the folder."
        )
    return None


@rank_zero_only
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


class DurableCheckpointIO(CheckpointIO):
    """Lightning's checkpoints through :func:`write_checkpoint`; nothing in a file is executed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
