"""Encoded texts, their batches, the cache, word vectors, and the data module."""

from __future__ import annotations

import gzip
import ssl
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import DataNotFoundError
from data.text import cache as text_cache
from data.text.batches import EncodedTexts, bucketed_order, evaluation_order, padding_share
from data.text.cache import open_corpus
from data.text.glove import read_glove
from data.text.module import IMDbToSST2
from tests.fakes import reviews, write_imdb, write_sst2


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CNSN_CACHE", str(folder))
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    write_imdb(tmp_path / "data", reviews(), pack=True)
    write_sst2(tmp_path / "data")
    return tmp_path / "data"


ROWS = [[5, 6, 7], [8], [2, 3, 4, 9, 1], [6, 6]]


def encoded(rows: list[list[int]] = ROWS) -> EncodedTexts:
    return EncodedTexts.of_arrays([np.array(row, np.int32) for row in rows], [0, 1, 1, 0])


def rows_of(texts: EncodedTexts) -> list[list[int]]:
    batch = texts[list(range(len(texts)))]
    return [
        row[:n].tolist() for row, n in zip(batch["tokens"], batch["length"].tolist(), strict=True)
    ]


def test_a_batch_is_padded_to_its_longest_text() -> None:
    batch = encoded()[[3, 0]]
    assert batch["tokens"].tolist() == [[6, 6, 0], [5, 6, 7]]
    assert batch["length"].tolist() == [2, 3] and batch["label"].tolist() == [0, 0]
    assert batch["index"].tolist() == [3, 0] and "group" not in batch
    assert encoded()[[2]]["tokens"].tolist() == [[2, 3, 4, 9, 1]]


def test_texts_can_be_cut_reordered_and_joined() -> None:
    texts = encoded()
    assert rows_of(texts.cut(2)) == [[5, 6], [8], [2, 3], [6, 6]]
    assert rows_of(texts.reordered(torch.tensor([2, 0]))) == [ROWS[2], ROWS[0]]
    both = EncodedTexts.joined([texts, texts.cut(1)])
    assert rows_of(both) == ROWS + [row[:1] for row in ROWS]
    assert both[list(range(8))]["group"].tolist() == [0] * 4 + [1] * 4
    moved = both.reordered(torch.tensor([7, 1]))[[0, 1]]
    assert moved["group"].tolist() == [1, 0] and moved["label"].tolist() == [0, 1]


def test_bucketed_order_keeps_padding_small_and_is_a_function_of_seed_and_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(5_030, generator=generator) * 0.6 + 5.2).exp().long().clamp(10, 2000)
    order = bucketed_order(lengths, 50, seed=1, epoch=0)
    assert order.sort().values.equal(torch.arange(5_030))
    assert padding_share(lengths, order, 50) < 0.2
    assert padding_share(lengths, torch.arange(5_030), 50) > 0.4
    assert bucketed_order(lengths, 50, seed=1, epoch=0).equal(order)
    assert not bucketed_order(lengths, 50, seed=1, epoch=1).equal(order)
    assert not bucketed_order(lengths, 50, seed=2, epoch=0).equal(order)
    # Short and long batches follow each other in random order.
    means = torch.stack([lengths[b].float().mean() for b in order.split(50)][:-1])
    assert abs(torch.corrcoef(torch.stack([means, torch.arange(100.0)]))[0, 1]) < 0.3


def test_padding_share_is_counted() -> None:
    lengths = torch.tensor([4, 2, 3, 3])
    assert padding_share(lengths, torch.arange(4), 2) == pytest.approx(2 / 14)


def test_evaluation_order_gives_each_process_all_lengths() -> None:
    lengths = torch.arange(101).flip(0)
    order = evaluation_order(lengths, 2)
    assert order.sort().values.equal(torch.arange(101))
    shares = [lengths[share].float().mean() for share in order.tensor_split(2)]
    assert abs(shares[0] - shares[1]) < 2


def test_corpus_is_what_the_texts_say(sets: Path) -> None:
    corpus = open_corpus(sets, sets, min_count=1, max_words=None)
    words = corpus.vocabulary.words
    first = corpus.parts["train"][[0]]["tokens"][0]
    text = reviews()["aclImdb/train/neg/0_2.txt"].lower().replace(".", " .")
    assert [words[number] for number in first] == text.split()
    assert set(corpus.parts) == {"train", "test", "sst2-train", "sst2-dev"}
    assert corpus.counts.sum() == len(corpus.parts["train"].tokens)
    # The vocabulary is that of the training reviews alone.
    trained = " ".join(t for n, t in reviews().items() if "/train/" in n).lower().split()
    assert set(words[2:]) <= {*trained, "."} | {word.rstrip(".") for word in trained}


def test_the_cache_is_read_once_it_is_there(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_corpus(sets, sets, min_count=2, max_words=None)
    calls: list[Any] = []
    read = text_cache.read_imdb
    monkeypatch.setattr(text_cache, "read_imdb", lambda path: calls.append(path) or read(path))
    again = open_corpus(sets, sets, min_count=2, max_words=None)
    assert not calls and again.fingerprint == first.fingerprint
    assert again.vocabulary.words == first.vocabulary.words
    for name, part in first.parts.items():
        assert again.parts[name].tokens.equal(part.tokens)
        assert again.parts[name].labels.equal(part.labels)
    open_corpus(sets, sets, min_count=3, max_words=None)
    assert len(calls) == 1, "other options, other numbers"
    write_imdb(sets, reviews(seed=7), pack=True)
    assert open_corpus(sets, sets, min_count=2, max_words=None).fingerprint != first.fingerprint
    assert len(calls) == 2, "other reviews, other numbers"


def test_a_damaged_cache_is_made_anew(sets: Path, own_cache: Path) -> None:
    first = open_corpus(sets, sets, min_count=2, max_words=None)
    (path,) = own_cache.glob("*.npz")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole.replace(b"film", b"filn")):
        path.write_bytes(content)
        assert open_corpus(sets, sets, min_count=2, max_words=None).fingerprint == first.fingerprint
    assert path.read_bytes() == whole or len(path.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_done_without(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = open_corpus(sets, sets, min_count=2, max_words=None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="CNSN_CACHE"):
        assert open_corpus(sets, sets, min_count=2, max_words=None).fingerprint == kept.fingerprint


VECTORS = {"film": [0.5, -1, 2], "is": [1, 1, 1], "unused": [9, 9, 9], "café": [0, 0, 3]}


def glove_lines() -> list[str]:
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in VECTORS.items()]
    return [*lines, "two words 1 2 3", "film 7 7 7"]


def write_glove(path: Path, lines: list[str]) -> Path:
    content = ("\n".join(lines) + "\n").encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("glove.6B.3d.txt", content)
            archive.writestr("glove.6B.5d.txt", "film 1 2 3 4 5\n")
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["glove.6B.3d.txt", "glove.6B.3d.txt.gz", "glove.6B.zip"])
def test_glove_in_every_form(tmp_path: Path, name: str) -> None:
    words = ["<pad>", "<unk>", "is", "café", "film", "absent", "two"]
    found = read_glove(write_glove(tmp_path / name, glove_lines()), words, 3)
    assert found.source == "glove.6B.3d.txt"
    assert found.known.tolist() == [False, False, True, True, True, False, False]
    np.testing.assert_array_equal(found.vectors[4], np.float32([0.5, -1, 2]))  # the first counts
    np.testing.assert_array_equal(found.vectors[~found.known], 0)
    assert found.coverage() == pytest.approx(3 / 7)
    assert found.coverage(np.array([0, 0, 2, 0, 6, 2, 0])) == pytest.approx(0.8)


def test_glove_of_a_zip_is_chosen_by_dimension(tmp_path: Path) -> None:
    place = write_glove(tmp_path / "glove.6B.zip", glove_lines())
    assert read_glove(place, ["film"], 5).vectors.tolist() == [[1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="dimension 4"):
        read_glove(place, ["film"], 4)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["film 1 2 3 4"], ["dimension 3", "has 4", "dimension 4`"]),
        (["is 1 2 3", "film 1 2"], ["line 2", "3 numbers", "has 2"]),
        (["is 1 2 3", "film 1 2 x"], ["line 2", "numbers only"]),
        (["is 1 2 3", "film 1 nan 3"], ["line 2", "finite"]),
        (["is 1 2 3", "film 1 2 3 4"], ["line 2", "3 numbers", "has 4"]),
        (["is 1 2 3", "two words 1 2 x"], ["line 2", "numbers only"]),
        (["other 1 2 3"], ["none"]),
        (["3 4", "film 1 2 3"], ["dimension 3", "has 4", "dimension 4`"]),
        (["is 1 2 3", "3 3"], ["line 2", "3 numbers", "has 1"]),
    ],
)
def test_malformed_glove_is_named(tmp_path: Path, lines: list[str], parts: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        read_glove(write_glove(tmp_path / "g.txt", lines), ["film", "is"], 3)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    "content",
    [
        "4 3\n{}",
        "\ufeff{}",
        "\ufeff4 3 \n{}",
        "{}\n",
        "{}\r\n \r\n",
        "{}. . . 1 2 3 \nat name@domain.com 1 2 3\n",
    ],
    ids=["header", "mark", "mark and header", "blank line", "blank lines", "words with spaces"],
)
@pytest.mark.parametrize("trail", ["", " "])
def test_what_others_put_around_vectors_is_read(tmp_path: Path, content: str, trail: str) -> None:
    """All words have a plain file's values, also the first, which a mark or header could take."""
    lines = [f"{word} {' '.join(map(str, vector))}{trail}\n" for word, vector in VECTORS.items()]
    place = tmp_path / "vectors.txt"
    place.write_bytes(content.format("".join(lines)).encode())
    found = read_glove(place, list(VECTORS), 3)
    np.testing.assert_array_equal(found.vectors, np.float32(list(VECTORS.values())))
    assert found.known.all()


def test_a_zip_of_the_finder_or_of_fasttext_is_read(tmp_path: Path) -> None:
    for name in ("glove.6B.3d.txt", "crawl-3d-2M.vec"):
        place = tmp_path / "vectors.zip"
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr(name, "film 1 2 3\n")
            archive.writestr(f"__MACOSX/._{name}", b"\x00\x05\x16\x07")
        found = read_glove(place, ["film"], 3)
        assert found.source == name and found.vectors.tolist() == [[1, 2, 3]]


def test_damaged_or_absent_glove_is_named(tmp_path: Path) -> None:
    place = write_glove(tmp_path / "g.txt.gz", [f"w{i} 1 2 3" for i in range(3000)])
    place.write_bytes(place.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_glove(place, ["w1"], 3)
    zipped = write_glove(tmp_path / "g.zip", glove_lines())
    zipped.write_bytes(zipped.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        read_glove(zipped, ["film"], 3)
    with pytest.raises(DataNotFoundError, match=r"data\.prepare glove"):
        read_glove(tmp_path / "none.txt", ["film"], 3)


def test_reading_glove_holds_the_wanted_vectors_alone(tmp_path: Path) -> None:
    place = tmp_path / "large.txt"
    row = " ".join(["0.12345"] * 50)
    place.write_text("".join(f"w{i} {row}\n" for i in range(30_000)))  # 13 MB
    tracemalloc.start()
    read_glove(place, [f"w{i}" for i in range(0, 1000)], 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6, "1,000 vectors of 200 bytes, and the words"


def module(sets: Path, **options: Any) -> IMDbToSST2:
    return IMDbToSST2(str(sets), str(sets), **{"batch_size": 8, "min_count": 1, **options})


def test_the_module_says_what_it_holds(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = module(sets, max_length=20)
    data.setup("fit")
    about = data.describe()
    assert about["dataset"] == "imdb-subset (48+48 reviews) -> sst2-subset (20 dev)"
    assert (about["n_train"], about["n_test"]) == (48, 68)
    assert about["word_vectors"] == {"source": "random"}
    batches = list(data.train_dataloader())
    assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(48))
    assert max(int(b["length"].max()) for b in batches) == 20
    tests = list(data.test_dataloader())
    groups = torch.cat([b["group"] for b in tests])
    assert groups.bincount().tolist() == [48, 20] and data.groups == ["imdb-test", "sst2-dev"]


def test_the_module_names_the_word_vectors(sets: Path, tmp_path: Path) -> None:
    glove = write_glove(tmp_path / "glove.6B.3d.txt.gz", glove_lines())
    data, plain = module(sets, glove=str(glove)), module(sets)
    vectors = data.vectors(3)
    assert vectors is not None and plain.vectors(3) is None
    for one in (data, plain):
        one.setup("test")
    about = data.describe()
    assert about["word_vectors"]["source"] == "glove.6B.3d.txt"
    assert 0 < about["word_vectors"]["text_covered"] < 1
    assert about["fingerprint"] != plain.describe()["fingerprint"]


def test_held_out_reviews_are_validated_on_and_the_same_for_every_seed(sets: Path) -> None:
    data, other = (module(sets, held_out=0.25, seed=seed) for seed in (0, 1))
    whole = module(sets)
    for one in (data, other, whole):
        one.setup("fit")

    def texts(batches: Any) -> list[bytes]:
        rows = [
            (b["tokens"][i, : b["length"][i]], b["label"][i])
            for b in batches
            for i in range(len(b["label"]))
        ]
        return sorted(row.numpy().tobytes() + bytes([int(label)]) for row, label in rows)

    kept, trained = texts(data.val_dataloader()), texts(data.train_dataloader())
    assert len(kept) == 12 and sorted(kept + trained) == texts(whole.train_dataloader())
    assert kept == texts(other.val_dataloader())
    assert texts(data.test_dataloader()) == texts(whole.val_dataloader())
    about = data.describe()
    assert about["dataset"] == "imdb-subset (48+48 reviews), 12 held out -> sst2-subset (20 dev)"
    assert (about["n_train"], about["held_out"]) == (36, 12)


def test_further_sentences_are_test_sets_of_their_own(sets: Path, tmp_path: Path) -> None:
    write_sst2(tmp_path / "own", n=10)
    data, plain = module(sets, sentences={"goods": str(tmp_path / "own")}), module(sets)
    for one in (data, plain):
        one.setup("test")
    assert data.groups == ["imdb-test", "sst2-dev", "goods-train", "goods-dev"]
    groups = torch.cat([b["group"] for b in data.test_dataloader()])
    assert groups.bincount().tolist() == [48, 20, 10, 10]
    assert data.describe()["dataset"].endswith("(20 dev), goods-train (10), goods-dev (10)")
    assert data.corpus.parts["goods-dev"].labels.tolist() == [0, 1] * 5
    assert data.describe()["fingerprint"] != plain.describe()["fingerprint"]


def test_texts_that_stand_in_both_parts_are_counted() -> None:
    assert encoded([[8], [8, 6], [1, 2], [8]]).found_in(encoded()) == 2
    assert encoded().found_in(encoded([[5, 6], [7, 8], [2], [3]])) == 0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"sst2_splits": ["test"]}, ["labelled sentences of SST-2's test", "train and dev"]),
        ({"sst2_splits": ["valid"]}, ["`sst2_splits`", "valid"]),
        ({"min_count": 0}, ["`min_count`", "0"]),
        ({"max_length": 0}, ["`max_length`"]),
        ({"held_out": 1.0}, ["`held_out`", "1.0"]),
        ({"sentences": {"a-b": "."}}, ["`sentences`", "'a-b'"]),
    ],
)
def test_bad_options_of_the_module_are_named(
    sets: Path, options: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        _ = module(sets, **options).groups
    assert all(part in str(error.value) for part in parts), error.value


def test_certificates_are_still_verified_after_the_text_stack_was_used(
    sets: Path, tmp_path: Path
) -> None:
    """torchtext's own vectors and downloads replace this function for the whole process."""
    data = module(sets, glove=str(write_glove(tmp_path / "g.3d.txt", glove_lines())))
    data.vectors(3)
    data.setup("fit")
    next(iter(data.train_dataloader()))
    assert ssl._create_default_https_context is ssl.create_default_context
    context = ssl._create_default_https_context()
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
