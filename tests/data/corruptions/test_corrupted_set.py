from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.corruptions import arrays as corrupted_set
from data.corruptions.arrays import open_corrupted, origin_of, write_corrupted
from data.corruptions.recipes import corrupt
from data.errors import DataNotFoundError

NAMES = ("fog", "gaussian_noise")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.arange(30) % 10


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_published_layout(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    write_corrupted(images, labels, tmp_path, corruptions=NAMES, seed=4)
    arrays, found = open_corrupted(tmp_path, NAMES, n=30)
    assert np.array_equal(found, np.tile(labels, 5))
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    for name in NAMES:
        assert isinstance(arrays[name], np.memmap) and arrays[name].shape == (150, 32, 32, 3)
        for severity in range(1, 6):
            expected = corrupt(tensor, name, severity, seed=4).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(arrays[name][30 * severity - 30 : 30 * severity], expected)


def test_workers_and_chunks_change_nothing(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corrupted(images, labels, tmp_path / "a", corruptions=NAMES, workers=1)
    monkeypatch.setattr(corrupted_set, "CHUNK", 7)
    monkeypatch.setattr(corrupted_set, "MIN_IMAGES_FOR_PROCESSES", 0)
    write_corrupted(images, labels, tmp_path / "b", corruptions=NAMES, workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_interrupted_by_an_error_then_continued(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corrupted(images, labels, tmp_path / "whole", corruptions=NAMES)
    out = tmp_path / "parts"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        write_corrupted(images, labels, out, corruptions=NAMES[:1])
        patch.setattr(corrupted_set.os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            write_corrupted(images, labels, out, corruptions=NAMES)
    assert {path.name for path in out.iterdir()} == {"corrupted.json", "labels.npy", "fog.npy"}
    write_corrupted(images, labels, out, corruptions=NAMES)
    assert contents(out) == contents(tmp_path / "whole")


SCRIPT = """
import sys, numpy as np
from pathlib import Path
from data.corruptions.arrays import write_corrupted
NAMES = ("fog", "snow", "frost", "gaussian_noise", "contrast", "saturate")
if __name__ == "__main__":
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    write_corrupted(images, np.arange(300) % 10, Path(sys.argv[1]), corruptions=NAMES)
"""


def test_killed_then_continued(tmp_path: Path, root: Path) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(out)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    killed = start(tmp_path / "parts")
    while len(list((tmp_path / "parts").glob("*.npy"))) < 3:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    for path in (tmp_path / "parts").glob("*.npy"):
        # Whole, although the process had no time to tidy up.
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    assert start(tmp_path / "parts").wait() == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    write_corrupted(images, labels, tmp_path, corruptions=NAMES[:1])
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="another seed"):
        write_corrupted(images, labels, tmp_path, corruptions=NAMES, seed=1)
    with pytest.raises(ValueError, match=r"another source.*another --out"):
        write_corrupted(images[::-1], labels, tmp_path, corruptions=NAMES)
    record = json.loads((tmp_path / "corrupted.json").read_text())
    (tmp_path / "corrupted.json").write_text(json.dumps({**record, "generator": 1}))
    with pytest.raises(ValueError, match="another generator"):
        write_corrupted(images, labels, tmp_path, corruptions=NAMES)
    (tmp_path / "corrupted.json").unlink()
    with pytest.raises(ValueError, match="may be the published ones"):
        write_corrupted(images, labels, tmp_path, corruptions=NAMES)
    del before["corrupted.json"]
    assert contents(tmp_path) == before


def save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=True)


def test_hostile_and_damaged_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"labels.npy.*data.prepare"):
        open_corrupted(tmp_path, ["fog"])
    save(tmp_path / "labels.npy", np.zeros(10, np.uint8))
    with pytest.raises(DataNotFoundError, match=r"fog.npy.*data.prepare corrupt"):
        open_corrupted(tmp_path, ["fog"])
    good = np.zeros((10, 32, 32, 3), np.uint8)
    for array, message in [
        (good.astype(np.float32), "uint8.*float32"),
        (good[:9], r"\(10, H, W, 3\).*\(9, 32"),
        (good[..., 0], r"\(10, H, W, 3\)"),
        (good[..., :2], r"\(10, H, W, 3\)"),
        (np.array([{"a": 1}] * 10), "could not be read.*Python object"),
    ]:
        save(tmp_path / "fog.npy", array)
        with pytest.raises(ValueError, match=message):
            open_corrupted(tmp_path, ["fog"])
    save(tmp_path / "fog.npy", good)
    whole = (tmp_path / "fog.npy").read_bytes()
    for damaged in (b"", whole[:50], whole[:-1], b"<!DOCTYPE html>" * 20):
        (tmp_path / "fog.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"fog.npy.*could not be read.*fetch it again"):
            open_corrupted(tmp_path, ["fog"])
    save(tmp_path / "fog.npy", good)
    with pytest.raises(ValueError, match="15 labels"):
        open_corrupted(tmp_path, ["fog"], n=3)
    save(tmp_path / "labels.npy", np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match="multiple of 5"):
        open_corrupted(tmp_path, ["fog"])


def test_a_made_set_belongs_to_its_own_images(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    assert origin_of(tmp_path, images, labels) == "given files"
    write_corrupted(images, labels, tmp_path, corruptions=NAMES[:1], seed=4)
    assert origin_of(tmp_path, images, labels).endswith("seed 4")
    # The same labels, so that only the record tells.
    with pytest.raises(ValueError, match=r"names other images.*--data\.corrupted"):
        origin_of(tmp_path, 255 - images, labels)
