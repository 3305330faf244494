"""Files of unknown origin that attack whoever reads them, one table of all.

Each case is a file, the function that reads it for the user, and the words by which it is refused.
Archives have a table of their own, test_hostile_archives.py.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from cnsn.checkpoint import load_official, read_state_dict
from data.classification.cifar import SETS, read_cifar
from data.corruptions.arrays import open_corrupted, origin_of
from data.domains.folders import find_domains
from data.domains.images import read_images
from data.files import read_record
from data.imagenet.folders import list_images
from data.prepare.imagenet import _counts
from data.prepare.segmentation import write_resized
from data.segmentation.label_files import read_label
from data.segmentation.layouts import _size, open_collection
from data.segmentation.module import SourceAndTarget
from data.segmentation.sets import read_image, read_pair
from data.segmentation.splits import read_split_file
from data.text.glove import read_glove
from data.text.imdb import read_imdb
from data.text.sst2 import read_sst2
from tasks.engine.results import read_results
from tasks.tables.spec import Table
from tasks.text.predict import Predictor
from tasks.visualize.exchange import read_photograph
from tests.archive_bytes import special, tar_bytes, zip_bytes
from tests.fakes import reviews, write_domains, write_imagenet, write_imdb
from tests.local_server import HTML, contents
from tests.segmentation_fakes import write_cityscapes, write_gta5

pytestmark = pytest.mark.promise("a hostile file is refused in one sentence, and runs nothing")

CANARY = "CNSN_HOSTILE_CANARY"  # names a file that code in a pickle would make
MEMORY = 300  # MiB that a refusal may take beyond what the process has


class Case(NamedTuple):
    name: str  # of the file, below the root
    content: bytes | Callable[[], bytes] | int  # an int: a sparse file of so many zeros
    read: Callable[[Path], object]  # of the file's path
    message: str


class Code:
    """Pickles as a command that makes the canary."""

    def __reduce__(self) -> Any:
        return os.system, (f'touch "${CANARY}"',)


class Evaluated:
    def __reduce__(self) -> Any:
        return eval, (f"open(__import__('os').environ['{CANARY}'], 'w')",)


class Attribute:
    def __reduce__(self) -> Any:
        return getattr, ("", "upper")


# ------------------------------------------------------------------------------------ checkpoints


def saved(content: Any, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def bomb_checkpoint() -> bytes:
    """A checkpoint whose tensors of zeros are compressed, which torch.save never does."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(16 << 20)}))) as plain,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), stream)
    return stream.getvalue()


def command(module: str, name: str) -> bytes:
    """A pickle in text that calls `module`.`name` for the canary."""
    return f"c{module}\n{name}\n(S'touch \"${CANARY}\"'\ntR.".encode()


def official(path: Path) -> object:
    return load_official(torch.nn.Linear(2, 2), path)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


PLAIN = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
UNSAFE = "could not be read safely"
CHECKPOINTS = {
    "code": Case("a.pth", lambda: saved(Code()), read_state_dict, "asks for posix.system"),
    "code beside weights": Case(
        "a.pth",
        lambda: saved({"state_dict": PLAIN, "best": Code()}),
        read_state_dict,
        "asks for posix.system",
    ),
    "code, official": Case(
        "a.pth.tar", lambda: saved({"state_dict": PLAIN, "x": Code()}), official, "posix.system"
    ),
    "code in a text model": Case("a.ckpt", lambda: saved({"text": Code()}), Predictor, "posix"),
    "eval": Case("a.pth", lambda: saved(Evaluated()), read_state_dict, "asks for .*eval"),
    "getattr": Case("a.pth", lambda: saved(Attribute()), read_state_dict, "asks for .*getattr"),
    "code, old format": Case(
        "a.pth", lambda: saved(Code(), zipped=False), read_state_dict, "posix.system"
    ),
    "bare pickle": Case("a.pth", command("os", "system"), read_state_dict, UNSAFE),
    "pickle of subprocess": Case(
        "a.pth", command("subprocess", "getoutput"), read_state_dict, UNSAFE
    ),
    "escape sequences": Case("a.pth", command("\x1b[2Jos", "x"), read_state_dict, UNSAFE),
    "a whole module": Case(
        "a.pth", lambda: saved(torch.nn.Linear(1, 1)), read_state_dict, "asks for torch.nn"
    ),
    "compressed bomb": Case("a.pth", bomb_checkpoint, read_state_dict, "as bombs do"),
    "tensor larger than its storage": Case(
        "a.pth",
        lambda: saved({"weight": torch.zeros(1).expand(1 << 20, 1 << 20)}),
        read_state_dict,
        "'weight' claims more than there are",
    ),
    "sparse tensor": Case(
        "a.pth",
        lambda: saved({"w": torch.sparse_coo_tensor(torch.zeros(2, 0), [], (1 << 30, 1 << 30))}),
        read_state_dict,
        "claims more|could not be read safely",
    ),
    "tensor without storage": Case(
        "a.pth",
        lambda: saved({"weight": torch.empty(1 << 40, device="meta")}),
        read_state_dict,
        "claims more|could not be read safely",
    ),
    "TorchScript": Case("a.pth", scripted, read_state_dict, UNSAFE),
    "cut": Case("a.pth", lambda: saved(PLAIN)[:-300], read_state_dict, UNSAFE),
    "web page": Case("a.pth", HTML * 100, read_state_dict, UNSAFE),
    "empty": Case("a.pth", b"", read_state_dict, UNSAFE),
    "zeros": Case("a.pth", 1 << 30, read_state_dict, UNSAFE),
    "no tensors": Case("a.pth", lambda: saved({"w": "x"}), read_state_dict, "state dict of tens"),
    "safetensors: endless header": Case(
        "a.safetensors", safetensors({}, length=1 << 62), read_state_dict, UNSAFE
    ),
    "safetensors: header beyond the file": Case(
        "a.safetensors", safetensors({}, length=1000), read_state_dict, UNSAFE
    ),
    "safetensors: data beyond the file": Case(
        "a.safetensors",
        safetensors({"w": tensor(0, 1 << 40, [1 << 38])}),
        read_state_dict,
        UNSAFE,
    ),
    "safetensors: overlap": Case(
        "a.safetensors",
        safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
        read_state_dict,
        UNSAFE,
    ),
    "safetensors: other shape than data": Case(
        "a.safetensors", safetensors({"a": tensor(0, 8, [1 << 40])}, bytes(8)), read_state_dict,
        UNSAFE,
    ),
    "safetensors: unknown type": Case(
        "a.safetensors", safetensors({"a": tensor(0, 8, [1], "X")}, bytes(8)), read_state_dict,
        UNSAFE,
    ),
    "safetensors: no JSON": Case(
        "a.safetensors", safetensors(b"{" * 5000), read_state_dict, UNSAFE
    ),
    "safetensors: a pickle": Case("a.safetensors", lambda: saved(Code()), read_state_dict, UNSAFE),
}  # fmt: skip

# ------------------------------------------------------------------------------- arrays and JSON


def batch(path: Path) -> object:
    """CIFAR-10 with the file as its test part."""
    layout = SETS["cifar10"]
    for name in (*layout.train, *layout.test):
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(b"")
    return read_cifar(path.parent, "cifar10", train=False)


def cifar(**changed: Any) -> bytes:
    data = np.zeros((2, 3072), np.uint8)
    return pickle.dumps({"data": data, "labels": [0, 1]} | changed, protocol=2)


class Unfilled:
    """Pickles as an array of 12 GiB that nothing fills."""

    def __reduce__(self) -> Any:
        return np.ndarray, ((1 << 22, 3072), np.dtype(np.uint8))


class Loaded:
    def __reduce__(self) -> Any:
        return np.load, ("/etc/passwd",)


def npy(header: str | bytes, data: bytes = b"") -> bytes:
    text = (header.encode() if isinstance(header, str) else header) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def dumped(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def zipped_arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(5))
    return stream.getvalue()


def corrupted(path: Path) -> object:
    if path.name != "labels.npy" and not (path.parent / "labels.npy").exists():
        np.save(path.parent / "labels.npy", np.zeros(5, np.int64))
    return open_corrupted(path.parent, ["fog"], 1)


def origin(path: Path) -> object:
    return origin_of(path.parent, np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64))


SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"
UNPICKLED = "could not be read"
ARRAYS = {
    "CIFAR: code": Case("test_batch", pickle.dumps(Code()), batch, "asks for posix.system"),
    "CIFAR: eval": Case("test_batch", pickle.dumps(Evaluated()), batch, "asks for builtins.eval"),
    "CIFAR: NumPy's loader": Case("test_batch", pickle.dumps(Loaded()), batch, "asks for numpy"),
    "CIFAR: text pickle": Case("test_batch", command("os", "system"), batch, "asks for os.system"),
    "CIFAR: escape sequences": Case("test_batch", command("\x1b[2Jos", "x"), batch, UNPICKLED),
    "CIFAR: endless memo": Case(
        "test_batch", b"\x80\x02Nr\xff\xff\xff\x7f.", batch, "counts more objects"
    ),
    "CIFAR: array of objects": Case(
        "test_batch", cifar(data=np.array([[Code()]], dtype=object)), batch, "asks for posix"
    ),
    "CIFAR: array that nothing fills": Case(
        "test_batch", lambda: cifar(data=Unfilled()), batch, "claims more bytes"
    ),
    "CIFAR: persistent id": Case("test_batch", b"Pevil\n.", batch, UNPICKLED),
    "CIFAR: lying length": Case(
        "test_batch", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50), batch, UNPICKLED
    ),
    "CIFAR: cut": Case("test_batch", cifar()[:-100], batch, UNPICKLED),
    "CIFAR: web page": Case("test_batch", HTML, batch, UNPICKLED),
    "CIFAR: label out of range": Case("test_batch", cifar(labels=[0, 10]), batch, "from 0 to 9"),
    "CIFAR: a label too few": Case("test_batch", cifar(labels=[0]), batch, "one label for each"),
    "npy: objects": Case(
        "fog.npy", lambda: dumped(np.array([Code()], dtype=object)), corrupted, UNPICKLED
    ),
    "npy: an archive of arrays": Case("fog.npy", zipped_arrays, corrupted, UNPICKLED),
    "npy: a pickle": Case("fog.npy", pickle.dumps(Code()), corrupted, UNPICKLED),
    "npy: longer than the file": Case(
        "fog.npy", npy(SHAPE % "(5, 1000000, 1000000, 3)"), corrupted, UNPICKLED
    ),
    "npy: negative shape": Case("fog.npy", npy(SHAPE % "(-5, 2, 2, 3)"), corrupted, UNPICKLED),
    "npy: code in the header": Case(
        "fog.npy",
        npy(f"{{'descr': open(__import__('os').environ['{CANARY}'], 'w')}}"),
        corrupted,
        UNPICKLED,
    ),
    "npy: deep header": Case("fog.npy", npy(b"(" * 9000), corrupted, UNPICKLED),
    "npy: long header": Case("fog.npy", npy(b" " * 60000), corrupted, UNPICKLED),
    "npy: cut": Case("fog.npy", lambda: dumped(np.zeros(100))[:-1], corrupted, UNPICKLED),
    "npy: another type": Case("fog.npy", lambda: dumped(np.zeros(5)), corrupted, "to be uint8"),
    "npy: labels of text": Case("labels.npy", lambda: dumped(["a"] * 5), corrupted, "integers"),
    "record: deep JSON": Case("corrupted.json", b"[" * 100_000, origin, "it is damaged"),
    "record: a list": Case("corrupted.json", b"[1]", origin, "no JSON object"),
    "record: huge": Case("record.json", 2 << 20, read_record, "too large"),
    "record: not UTF-8": Case("record.json", b'{"a": "\xff"}', read_record, "it is damaged"),
    "mat: a pickle": Case("split.mat", pickle.dumps(Code()), read_split_file, "split file"),
    "mat: web page": Case("split.mat", HTML * 100, read_split_file, "split file"),
}

# ------------------------------------------------------------------------------------------ text


def glove(path: Path) -> object:
    return read_glove(path, ["the", "of"], 3)


def endless_line_gz() -> bytes:
    """A line of 1 GiB, packed, of which no part is a line."""
    return gzip.compress(b"a" * (16 << 20), 1) * 64


def endless_line_zip() -> bytes:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("glove.3d.txt", "w", force_zip64=True) as file,
    ):
        for _ in range(8):
            file.write(b"a" * (8 << 20))
    return stream.getvalue()


def locked_zip() -> bytes:
    content = bytearray(zip_bytes([("glove.3d.txt", b"the 1 2 3\n")]))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


def review(path: Path) -> object:
    """IMDb's folder with the file as a negative review for training."""
    root = path.parents[2]
    (root / "test").mkdir()
    return read_imdb(root)


def release(**changed: bytes) -> Callable[[Path], object]:
    """The treebank's first release, of which `changed` files differ."""
    files = {
        "datasetSentences": b"i\ts\n1\tgood\n",
        "datasetSplit": b"i,s\n1,1\n",
        "dictionary": b"good|0\n",
        "sentiment_labels": b"i|s\n0|0.9\n",
    }

    def read(path: Path) -> object:
        for name, content in (files | changed).items():
            (path.parent / f"{name}.txt").write_bytes(content)
        return read_sst2(path.parent)

    return read


TSV = b"sentence\tlabel\n"
TEXTS = {
    "GloVe: line of 1 GiB": Case("glove.txt", 1 << 30, glove, "line 1 .* more than"),
    "GloVe: packed line of 1 GiB": Case("g.txt.gz", endless_line_gz, glove, "line 1 .* more than"),
    "GloVe: bomb": Case("g.zip", endless_line_zip, glove, "as bombs do"),
    "GloVe: second line endless": Case(
        "glove.txt", b"the 1 2 3\n" + b"1 " * 200_000, glove, "line 2 .* more than"
    ),
    "GloVe: locked": Case("g.zip", locked_zip, glove, "damaged"),
    "GloVe: infinite": Case("g.txt", b"the 1 inf 3\n", glove, "line 1 to hold 3 finite"),
    "GloVe: words for numbers": Case("g.txt", b"the 1 two 3\n", glove, "numbers only"),
    "GloVe: NUL": Case("g.txt", b"the 1 \0 3\n", glove, "numbers only"),
    "GloVe: other dimension": Case("g.txt", b"the 1 2 3 4 5\n", glove, "dimension 3"),
    "GloVe: web page": Case("g.txt", HTML, glove, "malformed"),
    "GloVe: damaged zip": Case("g.zip", b"PK\x03\x04" + bytes(100), glove, "damaged"),
    "SST-2: zip that leads out": Case(
        "SST-2.zip", zip_bytes([("../train.tsv", TSV)]), read_sst2, "leads out"
    ),
    "SST-2: bomb": Case("SST-2.zip", zip_bytes([("train.tsv", bytes(4 << 20))]), read_sst2, "bomb"),
    "SST-2: huge table": Case("train.tsv", 1 << 30, folder(read_sst2), "more than 64.0 MiB"),
    "SST-2: not UTF-8": Case("train.tsv", TSV + b"\xff\t1\n", folder(read_sst2), "line 2 to be U"),
    "SST-2: UTF-16": Case(
        "train.tsv", TSV.decode().encode("utf-16"), folder(read_sst2), "UTF-8|columns"
    ),
    "SST-2: a header alone": Case("train.tsv", TSV, folder(read_sst2), "train.tsv to hold label"),
    "SST-2: neutral trees alone": Case(
        "train.txt", b"(2 (2 a) (2 b))\n", folder(read_sst2), "train.txt to hold label"
    ),
    "SST-2: label": Case("train.tsv", TSV + b"a\t7\n", folder(read_sst2), "0 or 1, but got '7'"),
    "SST-2: columns": Case("train.tsv", TSV + b"a\t1\t1\n", folder(read_sst2), "to have 2 columns"),
    "SST-2: a million columns": Case(
        "train.tsv", b"a\t" * 1_000_000, folder(read_sst2), "columns sentence and label"
    ),
    "SST-2: no tree": Case("train.txt", b"((((((\n" * 9, folder(read_sst2), "to be a tree"),
    "SST-2: sentiment that is no number": Case(
        "x", b"", release(sentiment_labels=b"i|s\n0|nan\n"), "from 0 to 1, but got 'nan'"
    ),
    "SST-2: sentiment out of range": Case(
        "x", b"", release(sentiment_labels=b"i|s\n0|1e9\n"), "from 0 to 1"
    ),
    "IMDb: link": Case(
        "aclImdb_v1.tar.gz",
        gzip.compress(tar_bytes([special(tarfile.SYMTYPE, "aclImdb/train/neg/1_1.txt", "/etc")])),
        read_imdb,
        "a link to",
    ),
    "IMDb: huge review": Case("train/neg/1_1.txt", 1 << 30, review, "more than 1.0 MiB"),
    "IMDb: not UTF-8": Case("train/neg/1_1.txt", b"a\xff", review, "to be UTF-8"),
    "IMDb: contradiction": Case("train/neg/1_9.txt", b"good", review, "but got 9"),
}

# ---------------------------------------------------------------------------------------- images


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG of 8-bit grey that declares this size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    packed = zlib.compress(bytes(256 << 20), 1)
    return png(1, 1, chunk(b"zTXt", b"a\0\0" + packed))


def encoded(format: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert(mode).save(stream, format, **options)
    return stream.getvalue()


# What Ghostscript would run.
EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    b"(%pipe%touch /tmp/cnsn-evil) (w) file\nshowpage\n%%EOF\n"
)


def in_folder(path: Path) -> object:
    """The image as the image-folder data sets read it."""
    return list_images(path.parents[1]).read(0)


def in_memory(path: Path) -> object:
    return read_images([path], 8)


def label(path: Path) -> object:
    return read_label(path, "ids")


UNREAD = "could not be read|cannot be read|readable image"
IMAGES = {
    f"{reader.__name__.strip('_')}: {name}": Case("cat/a.png", content, reader, UNREAD)
    for name, content in {
        "billions of pixels": png(60_000, 60_000),
        "PostScript": EPS,
        "web page": HTML,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
        "a pickle": pickle.dumps(Code()),
        "nothing": b"",
    }.items()
    for reader in (in_folder, in_memory, label, _size)
} | {
    "in_folder: text that unpacks": Case("cat/a.png", text_bomb, in_folder, UNREAD),
    "in_memory: text that unpacks": Case("cat/a.png", text_bomb, in_memory, UNREAD),
    "in_folder: cut JPEG": Case("cat/a.jpg", encoded("JPEG")[:-400], in_folder, UNREAD),
    "in_memory: cut JPEG": Case("cat/a.jpg", encoded("JPEG")[:-400], in_memory, UNREAD),
    "in_folder: damaged PNG": Case(
        "cat/a.png", png(9, 9, chunk(b"IDAT", b"no zlib")), in_folder, UNREAD
    ),
    "in_folder: TIFF in circles": Case(
        "cat/a.tif", b"II*\0\x08\0\0\0" + b"\x01\0" + bytes(12) + b"\x08\0\0\0", in_folder, UNREAD
    ),
    "in_folder: 32 bits": Case("cat/a.tif", encoded("TIFF", "F"), in_folder, "32 bits a pixel"),
    "in_memory: 32 bits": Case("cat/a.png", encoded("TIFF", "I"), in_memory, "32 bits a pixel"),
    "label: a photograph": Case("a.png", encoded("JPEG", "CMYK"), label, "content is JPEG"),
    "label: unknown ids": Case("a.png", encoded("PNG", "L"), label, "unknown"),
    "label: cut": Case("a.png", encoded("PNG", "L")[:-300], label, UNREAD),
}

# ------------------------------------------------------------------------------------------ YAML

TABLE = "to be a table in YAML, but"
YAML = {
    "table: python tag": Case(
        "t.yaml", b"rows: !!python/object/apply:os.system ['touch x']", Table.load, TABLE
    ),
    "table: python name": Case("t.yaml", b"rows: !!python/name:os.system", Table.load, TABLE),
    "table: new object": Case(
        "t.yaml", b"rows: !!python/object/new:os.system [x]", Table.load, TABLE
    ),
    "table: deep": Case("t.yaml", b"[" * 5000, Table.load, TABLE),
    "table: binary": Case("t.yaml", b"\x00\x01\x02rows: []", Table.load, TABLE),
    "table: not UTF-8": Case("t.yaml", b"title: \xff", Table.load, TABLE),
    "table: no rows": Case("t.yaml", b"title: x", Table.load, TABLE),
    "table: a list": Case("t.yaml", b"- 1", Table.load, TABLE),
}

CASES = CHECKPOINTS | ARRAYS | TEXTS | IMAGES | YAML


def peak_memory() -> float:
    """The largest resident memory since `forget_peak`, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "canary"
    monkeypatch.setenv(CANARY, str(path))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize("case", CASES)
def test_hostile_file(tmp_path: Path, canary: Path, case: str) -> None:
    name, content, read, message = CASES[case]
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True)
    if isinstance(content, int):
        path.touch()
        os.truncate(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content())
    before = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")}
    forget_peak()
    memory = peak_memory()
    with pytest.raises((ValueError, OSError), match=message) as caught:
        read(path)
    assert peak_memory() - memory < MEMORY
    text = str(caught.value)
    assert text.startswith("Expected ") and text.isprintable() and len(text) < 1000, text
    assert not canary.exists() and not Path("/tmp/cnsn-evil").exists()
    # What a case's own reader put beside its file lies there too.
    assert {
        p.parts[0] for p in {q.relative_to(tmp_path) for q in tmp_path.rglob("*")} - before
    } <= {"root"}


def test_there_are_as_many_as_promised() -> None:
    """Beside the archives and the configuration files, which have tables of their own."""
    assert len(CASES) >= 40
    assert len({(case.name, case.read, case.message) for case in CASES.values()}) >= 40


def test_cases_do_what_they_are_refused_for(canary: Path) -> None:
    """The pickles are live: an ordinary reader runs them."""
    for attack in (pickle.dumps(Code()), command("os", "system"), pickle.dumps(Evaluated())):
        pickle.loads(attack)
        assert canary.exists()
        canary.unlink()


def test_a_hostile_line_of_results_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"[" * 100_000 + b'\n{"task": "x"}\n\xff\n')
    with pytest.warns(UserWarning, match="line 1 is passed over"):
        assert list(read_results(path)) == [{"task": "x"}]


def test_only_files_are_images(tmp_path: Path) -> None:
    """A pipe would be waited for, for ever."""
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.png").symlink_to("/dev/zero")
    (tmp_path / "cat" / "c.png").symlink_to("c.png")
    with pytest.raises(ValueError, match="3 of 3 files are not"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match=r"a.png \(it is no file\).*b.png.*c.png"):
        read_images(sorted((tmp_path / "cat").iterdir()), 8)
    assert set(contents(tmp_path)) == {"cat", "cat/a.png", "cat/b.png", "cat/c.png"}


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel; Pillow writes none in colour."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def photograph(path: Path) -> object:
    return (255 * read_photograph(path)[0]).permute(1, 2, 0)


READERS: dict[str, Callable[[Path], Any]] = {
    "folder": in_folder,
    "memory": lambda path: in_memory(path)[0][0].permute(1, 2, 0),  # type: ignore[index]
    "segmentation": lambda path: read_image(path).permute(1, 2, 0),
    "pictures": photograph,
}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("reader", READERS)
def test_images_of_16_bits_keep_their_upper_8(tmp_path: Path, reader: str, channels: int) -> None:
    """Pillow alone would make every grey above 255 white.

    And a camera's 12 bits, stored in 16 as they are, would be nearly black.
    """
    read, path = READERS[reader], tmp_path / "cat" / "a.png"
    deep = np.random.default_rng(channels).integers(0, 1 << 16, (8, 8, channels))
    deep[..., channels - 1 : channels - channels % 2 : -1] = 65_535  # opaque, where there is alpha
    path.parent.mkdir()
    path.write_bytes(deep_png(deep))
    colour = deep[..., :3] if channels > 2 else deep[..., :1].repeat(3, -1)
    assert np.array_equal(np.asarray(read(path)), colour // 256)
    path.write_bytes(deep_png(deep // 16))
    with pytest.raises(ValueError, match=r"a\.png.*below 4,096.*12 bits.*save it with 8"):
        read(path)
    brightest = deep // 16
    brightest[0, 0] = 4096
    path.write_bytes(deep_png(brightest))
    read(path)


def system_files(root: Path) -> Path:
    """What macOS leaves beside every file and folder on a foreign disk, and in its zips."""
    for path in [p for p in root.rglob("*") if p.suffix]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        (folder / "__MACOSX" / "x").mkdir(parents=True)
        (folder / "__MACOSX" / "x" / "._a.png").write_bytes(b"\0\5\x16\7")
    return root


def scored(root: Path) -> list[Any]:
    return [
        (pair.name, read_pair(pair)[1].sum().item())
        for pair in open_collection(root, ("val",)).parts["val"]
    ]


def copied(root: Path) -> list[Any]:
    out = root.with_name(f"{root.name}-half{len(list(root.parent.iterdir()))}")
    write_resized(root, out, scale=0.5, workers=1)
    return sorted(path.relative_to(out) for path in out.rglob("*.png"))


def in_folders(root: Path) -> list[Any]:
    images = list_images(root / "val")
    return [images.classes, *map(images.below, range(len(images))), *_counts(root / "val")]


def reviewed(root: Path) -> list[Any]:
    return [part.places for part in read_imdb(root).values()]


def domains(root: Path) -> list[Any]:
    return [{c: [p.name for p in f] for c, f in d.items()} for d in find_domains(root).values()]


def to_predict(root: Path) -> list[Any]:
    data = SourceAndTarget("/nowhere", predict_root=str(root), workers=0)
    data.setup("predict")
    assert data.plain is not None
    return data.plain.names


SETS_OF_FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], list[Any]]]] = {
    "GTA5": (lambda root: write_gta5(root, 10, split=False), scored),
    "Cityscapes": (lambda root: write_cityscapes(root, 3), scored),
    "resized GTA5": (lambda root: write_gta5(root, 10), copied),
    "resized Cityscapes": (lambda root: write_cityscapes(root, 3), copied),
    "predict": (lambda root: write_gta5(root, 10), to_predict),
    "ImageNet": (write_imagenet, in_folders),
    "domains": (lambda root: write_domains(root, {d: {"x": 2, "y": 3} for d in "ab"}), domains),
    "IMDb": (lambda root: write_imdb(root, reviews(8), pack=False), reviewed),
}


@pytest.mark.parametrize("name", SETS_OF_FILES)
def test_files_of_the_system_are_passed_over(tmp_path: Path, name: str) -> None:
    write, read = SETS_OF_FILES[name]
    write(tmp_path / "set")
    before = read(tmp_path / "set")
    assert before and read(system_files(tmp_path / "set")) == before
