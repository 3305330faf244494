"""IMDb and SST-2 in every form that they are shared in, whole and damaged."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataNotFoundError
from data.prepare import __main__ as prepare
from data.prepare.catalogue import Published
from data.text.imdb import read_imdb
from data.text.sst2 import read_sst2
from data.text.tokens import tokenise
from tests.fakes import reviews, write_imdb, write_sst2


def test_archive_and_folder_give_the_same_reviews(tmp_path: Path) -> None:
    texts = reviews(12) | {
        "aclImdb/train/unsup/0_0.txt": "without a label",
        "aclImdb/README": "about",
    }
    archive = write_imdb(tmp_path / "packed", texts, pack=True)
    folder = write_imdb(tmp_path / "open", texts, pack=False)
    packed = read_imdb(archive)
    for place in (folder, archive.parent, folder.parent):
        assert {k: v.texts for k, v in read_imdb(place).items()} == {
            k: v.texts for k, v in packed.items()
        }
    assert packed["train"].labels == [0] * 12 + [1] * 12
    # In the order of the numbers, not of their digits: 10 comes after 9.
    assert packed["test"].texts[10] == texts["aclImdb/test/neg/10_2.txt"]


def repacked(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        texts: dict[str, Any] = dict(reviews(3))
        change(texts)
        write_imdb(path.parent, texts, pack=True)

    return damage


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def linked(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("aclImdb/train/pos/0_9.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)


FIRST = "aclImdb/train/pos/0_9.txt"


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "damaged"),
        (flipped, "damaged"),
        (lambda path: path.write_text("<html>not found</html>"), "damaged"),
        (linked, "is a link"),
        (repacked(lambda t: t.update({FIRST: b"fine\nso \xff far"})), "line 2 is not"),
        (repacked(lambda t: t.update({FIRST: " \n"})), f"{FIRST}, but it is empty"),
        (repacked(lambda t: t.update({"aclImdb/train/pos/7_3.txt": "x"})), "rated 1 to 4"),
        (repacked(lambda t: t.update({"aclImdb/../../train/pos/7_9.txt": "x"})), "leads out"),
        (
            repacked(lambda t: [t.pop(name) for name in list(t) if "test/pos" in name]),  # type: ignore[arg-type,return-value]
            "negative and positive reviews in test/",
        ),
    ],
)
def test_a_damaged_archive_is_named(
    tmp_path: Path, damage: Callable[[Path], None], part: str
) -> None:
    archive = write_imdb(tmp_path, reviews(3), pack=True)
    damage(archive)
    with pytest.raises(ValueError) as error:
        read_imdb(archive)
    assert part in str(error.value) and "aclImdb_v1.tar.gz" in str(error.value)


def test_absent_sets_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"data.prepare imdb --root .* `--data.imdb`"):
        read_imdb(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"data.prepare sst2 --root .*"):
        read_sst2(tmp_path)


# One treebank in its three forms: a neutral sentence is dropped, escapes and brackets are undone.

TREES = {
    "train": "(3 (2 A) (4 gem))\n(1 (2 is) (1 (2 n't) (1 good)))\n(2 (2 So) (2 so))\n",
    "dev": "(4 (2 -LRB-) (4 (3 café) (2 -RRB-)))\n",
    "test": "(0 (2 Dull) (1 \\/))\n\n",
}
TABLES = {
    "train": "sentence\tlabel\nA gem\t1\nis n't good\t0\n",
    "dev": "sentence\tlabel\r\n-LRB- café -RRB-\t1\r\n",
    "test": "label\tsentence\n0\tDull \\/\n",
}
RELEASE = {
    "datasetSentences.txt": "sentence_index\tsentence\n1\tA gem\n2\tis n't good\n3\tSo so\n"
    "4\t-LRB- cafÃ© -RRB-\n5\tDull \\/\n",
    "datasetSplit.txt": "sentence_index,splitset_label\n1,1\n2,1\n3,1\n4,3\n5,2\n",
    "dictionary.txt": "A gem|0\nis n't good|1\nSo so|2\n( café )|3\nDull \\/|4\ngem|5\n",
    "sentiment_labels.txt": "phrase ids|sentiment values\n0|0.7\n1|0.4\n2|0.6\n3|1.0\n4|0.0\n"
    "5|0.9\n",
}
SENTENCES = {
    "train": (["A gem", "isn't good"], [1, 0]),
    "dev": (["( café )"], [1]),
    "test": (["Dull \\/"], [0]),
}


def forms() -> dict[str, dict[str, str]]:
    return {
        "SST-2": {f"{split}.tsv": text for split, text in TABLES.items()},
        "trees": {f"{split}.txt": text for split, text in TREES.items()},
        "stanfordSentimentTreebank": RELEASE,
    }


def pack(path: Path, top: str, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{top}/{name}", text)
            archive.writestr(f"__MACOSX/{top}/._{name}", b"\x00\xff")
    return path


@pytest.mark.parametrize("form", list(forms()))
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_gives_the_same_sentences(tmp_path: Path, form: str, packed: bool) -> None:
    files = forms()[form]
    if packed:
        place = pack(tmp_path / f"{form}.zip", form, files)
    else:
        place = tmp_path / form
        place.mkdir()
        for name, text in files.items():
            (place / name).write_bytes(text.encode())
    found = {split: (texts.texts, texts.labels) for split, texts in read_sst2(place).items()}
    assert found == SENTENCES
    if not packed:
        assert {k: v.labels for k, v in read_sst2(tmp_path).items()} == {
            k: labels for k, (_, labels) in SENTENCES.items()
        }


@pytest.mark.parametrize("packed", [False, True])
def test_glues_set_is_read_by_the_release_within(tmp_path: Path, packed: bool) -> None:
    tables = {
        "train.tsv": "sentence\tlabel\ngem \t1\n",
        "dev.tsv": "sentence\tlabel\ncafé\t1\n",
        "test.tsv": "index\tsentence\n0\tDull /\n",
    }
    files = tables | {f"original/{name}": text for name, text in RELEASE.items()}
    if packed:
        pack(tmp_path / "SST-2.zip", "SST-2", files)
    else:
        for name, text in files.items():
            path = tmp_path / "SST-2" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    found = {split: (texts.texts, texts.labels) for split, texts in read_sst2(tmp_path).items()}
    assert found == SENTENCES


@pytest.mark.parametrize(
    "table",
    ["index\tsentence\n0\tA film .\n", "sentence\tlabel\nA film .\t-1\nA second .\t-1\n"],
)
def test_glues_hidden_labels_are_not_made_up(tmp_path: Path, table: str) -> None:
    folder = write_sst2(tmp_path)
    (folder / "test.tsv").write_text(table)
    assert set(read_sst2(folder)) == {"train", "dev"}


@pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u3000", "\u0085"])
def test_words_that_hold_a_space_that_is_not_plain_are_kept(tmp_path: Path, space: str) -> None:
    """Whatever Unicode takes for white space: trees and table give the same words."""
    word = f"8{space}1/2"
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / "dev.txt").write_text(f"(3 (2 {word}) (3 (3 great) (2 films)))\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "dev.tsv").write_text(f"sentence\tlabel\n{word} great films\t1\n")
    trees, table = (read_sst2(tmp_path / form)["dev"] for form in ("trees", "tables"))
    assert trees.texts == table.texts == [f"{word} great films"]
    assert tokenise(trees.texts[0])[0] == "8"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("dev.tsv", b"text\tscore\nA\t1\n", ["columns sentence and label", "text"]),
        ("dev.tsv", b"sentence\tlabel\nA\t1\nB\t2\n", ["dev.tsv, line 3", "0 or 1", "'2'"]),
        ("dev.tsv", b"sentence\tlabel\nA\tgood\n", ["line 2", "'good'"]),
        ("dev.tsv", b"sentence\tlabel\nA\n", ["line 2", "2 columns", "got 1"]),
        ("dev.tsv", b"sentence\tlabel\n \t1\n", ["line 2", "empty"]),
        ("dev.tsv", b"sentence\tlabel\nA\t1\n\xff\t1\n", ["line 3", "UTF-8"]),
        ("dev.tsv", b"", ["columns sentence and label"]),
        ("dev.txt", b"(5 (2 A) (2 b))\n", ["line 1", "tree", "(5 (2 A)"]),
        ("dev.tsv", b"sentence\tlabel\nA\t1\nB\t-1\n", ["dev.tsv, line 3", "0 or 1", "'-1'"]),
        ("dev.txt", b"plain words\n", ["line 1", "tree"]),
        ("dev.txt", b"(3 (2 A) (4 gem))\n(3 (2 A) (4 g", ["line 2", "tree"]),
        ("dev.txt", b"(3 (2 A) (4 gem)\n", ["line 1", "tree"]),
        ("dev.txt", b"(3 (2 A fine) (4 gem))\n", ["line 1", "tree"]),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_sst2(tmp_path)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_sentence_without_sentiment_is_named(tmp_path: Path) -> None:
    files = RELEASE | {"dictionary.txt": "A gem|0\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"datasetSentences.txt, line 3"):
        read_sst2(tmp_path)
    (tmp_path / "sentiment_labels.txt").write_text("phrase ids|sentiment values\n0|good\n")
    with pytest.raises(ValueError, match=r"sentiment_labels.txt, line 2 .* 'good'"):
        read_sst2(tmp_path)


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    place = pack(tmp_path / "SST-2.zip", "SST-2", forms()["SST-2"])
    place.write_bytes(place.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"SST-2.zip to be a zip.*damaged"):
        read_sst2(place)
    empty = tmp_path / "other.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("a.csv", "1")
    with pytest.raises(ValueError, match="none of its files"):
        read_sst2(empty)


@pytest.mark.parametrize("name", ["imdb", "sst2", "glove"])
def test_sets_are_fetched_over_https_and_checked(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = prepare.SETS[name]
    assert isinstance(entry, Published)
    (file,) = entry.files
    assert file.url.startswith("https://") and len(file.sha256 or "") == 64 and file.size > 0
    (tmp_path / file.name).write_bytes(b"something else")
    assert prepare.main([name, "--root", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert file.name in message and "nothing is overwritten" in message.replace("\n", " ")
    assert (tmp_path / file.name).read_bytes() == b"something else"


def test_what_is_fetched_is_what_is_read(tmp_path: Path) -> None:
    """The published file names are among those that the readers look for."""
    for name, read in (("imdb", read_imdb), ("sst2", read_sst2)):
        entry = prepare.SETS[name]
        assert isinstance(entry, Published)
        (tmp_path / entry.files[0].name).write_bytes(io.BytesIO(b"damaged").getvalue())
        with pytest.raises(ValueError, match="damaged"):
            read(tmp_path)
