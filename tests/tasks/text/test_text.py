"""The text task, from options to result line and to predictions."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cnsn import CNSNSpec, insert
from cnsn.nets import TextCNN
from data.text.sst2 import read_sst2
from data.text.tokens import Vocabulary, tokenise
from tasks.engine.metrics import ConfusionMatrices, GroupedErrors
from tasks.engine.results import HELD_OUT, read_results
from tasks.tables.spec import Table
from tasks.text.curves import _by_epoch, draw_curves, write_best_epochs
from tasks.text.curves import main as curves
from tasks.text.metrics import summarise, wilson_interval
from tasks.text.module import Text, main
from tests.command_line import places, refusal, stop_and_resume
from tests.fakes import reviews, write_imdb, write_sst2
from tests.reliability.launcher import Launcher
from tests.reliability.together import finished, together

SMALL = [
    "--config=configs/sst2.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=2",
    "--model.network.init_args.dimension=8",
    "--model.network.init_args.filters=6",
    "--data.min_count=1",
    "--data.batch_size=16",
]
CNSN = ["--model.cnsn.kind=cnsn", "--model.cnsn.crop=both", "--model.crossnorm.k=2"]


@pytest.fixture(autouse=True)
def own_cache(in_the_repository: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sets(tmp_path: Path) -> list[str]:
    """Options that name two small sets."""
    write_imdb(tmp_path / "data", reviews(28), pack=True)
    write_sst2(tmp_path / "data")
    return [f"--data.imdb={tmp_path / 'data'}", f"--data.sst2={tmp_path / 'data' / 'SST-2'}"]


def last(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("text/*/seed*/checkpoints/last.ckpt")
    return path


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def by_hand(path: Path, folder: Path) -> list[list[float]]:
    """Probabilities of SST-2's dev sentences, each run alone, without the suite's batches."""
    state = load(path)
    net = insert(
        TextCNN(vocabulary_size=len(state["text"]["vocabulary"]), dimension=8, filters=6),
        CNSNSpec(kind="cnsn", position="conv", crop="both"),
    ).eval()
    net.load_state_dict({k.removeprefix("network."): v for k, v in state["state_dict"].items()})
    vocabulary = Vocabulary.of_words(state["text"]["vocabulary"])
    rows = []
    for text in read_sst2(folder)["dev"].texts:
        numbers = torch.from_numpy(vocabulary.encode(tokenise(text))).long()[None]
        with torch.inference_mode():
            rows.append(net(numbers, torch.tensor([numbers.shape[1]])).softmax(-1)[0].tolist())
    return rows


def test_fit_test_and_predict(
    sets: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    options = [*SMALL, *CNSN, *sets, *places(tmp_path), "--trainer.max_epochs=8"]
    options += ["--model.optimizer.lr=0.02", "--trainer.num_sanity_val_steps=1"]
    main(["fit", *options])
    assert "Word vectors: random" in caplog.text
    main(["test", *options])
    (record,) = read_results(tmp_path / "results" / "text.jsonl")
    assert record["dataset"] == "imdb-subset (56+56 reviews) -> sst2-subset (20 dev)"
    assert record["summary"]["accuracy"] > 0.9, "the label stands in every third word"
    assert [entry["n"] for entry in record["test_sets"]] == [56, 20]
    assert record["breakdown"]["sst2-dev"] == record["summary"]["sst2_dev_accuracy"]
    assert [point["epoch"] for point in record["history"]] == list(range(1, 9))
    assert record["history"][-1]["error"] == pytest.approx(record["summary"]["error"])
    assert "imdb" not in json.dumps(record["recipe"]), "no path of one machine"

    probabilities = by_hand(last(tmp_path), tmp_path / "data" / "SST-2")
    texts = read_sst2(tmp_path / "data" / "SST-2")["dev"]
    correct = sum(row[y] > 0.5 for row, y in zip(probabilities, texts.labels, strict=True))
    assert record["test_sets"][1]["accuracy"] == pytest.approx(correct / 20)

    # From the checkpoint alone: neither data nor cache are there any more.
    (tmp_path / "data").rename(tmp_path / "gone")
    (tmp_path / "cache").rename(tmp_path / "gone-too")
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts.texts) + "\n")
    capsys.readouterr()
    main(["predict", f"--ckpt_path={last(tmp_path)}", f"--file={file}"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == texts.texts
    for (label, probability, _), row in zip(lines, probabilities, strict=True):
        assert label == ("positive" if row[1] > 0.5 else "negative")
        assert float(probability) == pytest.approx(max(row), abs=2e-4)
    given = ["--text=Great\n film story, great!", "--text=awful plot scene awful"]
    main(["predict", f"--ckpt_path={last(tmp_path)}", *given])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("positive\t") and first.endswith("\tGreat film story, great!")
    assert second.startswith("negative\t")


def test_the_epoch_is_chosen_on_held_out_reviews(sets: list[str], tmp_path: Path) -> None:
    options = [*SMALL, *sets, *places(tmp_path), "--data.held_out=0.5", "--trainer.max_epochs=4"]
    options += ["--model.optimizer.lr=0.05"]
    main(["fit", *options])
    best = last(tmp_path).with_name("best.ckpt")
    main(["test", *options, f"--ckpt_path={best}"])
    main(["test", *options])
    chosen, end = read_results(tmp_path / "results" / "text.jsonl")
    assert chosen["selection"] == HELD_OUT and end["selection"] == "last epoch"
    assert chosen["finished"]["steps"] == 4 * 2 and chosen["held_out"] == 28
    errors = {point["epoch"]: point["error"] for point in end["history"]}
    assert errors.keys() == {1, 2, 3, 4} and chosen["epoch"] == min(errors, key=errors.__getitem__)
    assert chosen["summary"].keys() == end["summary"].keys()


def test_a_run_stopped_in_mid_epoch_ends_bit_identical(
    sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SMALL, *CNSN, *sets]
    main(["fit", *options, *places(tmp_path / "whole")])
    options += ["--save_every=1", *places(tmp_path / "parts")]
    stop_and_resume(monkeypatch, Text, main, ["fit", *options], {2: 0, 6: 2})
    one, two = load(last(tmp_path / "parts")), load(last(tmp_path / "whole"))
    assert one["text"] == two["text"] and len(one["text"]["history"]) == 2
    for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def test_two_processes_equal_one(sets: list[str], tmp_path: Path, warm: Launcher) -> None:
    """The same global batches and weights; after each epoch every text is judged once."""
    # Without SelfNorm, whose batch statistics are each process's own, and without dropout.
    options = [*SMALL, *sets, "--model.network.init_args.dropout=0"]
    finished(together(warm, "text", ["fit", *options, *places(tmp_path / "two")]))
    main(["fit", *options, *places(tmp_path / "one")])
    one, other = (load(last(tmp_path / name)) for name in ("one", "two"))
    assert one["global_step"] == other["global_step"] == 8
    # Sums over the batch in another order, magnified by Adam's first steps.
    torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(one["text"]["history"], other["text"]["history"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    main(["test", *options, *places(tmp_path / "two")])
    (record,) = read_results(tmp_path / "two" / "results" / "text.jsonl")
    assert record["summary"]["ece"] == pytest.approx(other["text"]["history"][-1]["ece"], abs=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.crossnorm.consistency=10", "--model.crossnorm.p=1"],
        ["--trainer.precision=bf16-mixed"],
        ["--data.max_length=3"],  # shorter than the widest filter
        ["--config=configs/text_resnet.yaml", "--model.cnsn.kind=cnsn"],
    ],
)
def test_flags_train(sets: list[str], tmp_path: Path, flags: list[str]) -> None:
    base = SMALL if "--config" not in flags[0] else [o for o in SMALL if "filters" not in o]
    layers = CNSN if base is SMALL else []
    main(["fit", *base, *layers, *sets, *places(tmp_path), *flags, "--trainer.max_epochs=1"])
    state = load(last(tmp_path))
    assert state["global_step"] == 4
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    main(["predict", f"--ckpt_path={last(tmp_path)}", "--text=A film"])


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_word_vectors_are_loaded_and_frozen_or_trained(
    sets: list[str],
    tmp_path: Path,
    frozen: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    glove = tmp_path / "tiny.8d.txt"
    words = ("film", "story", "great", "awful")
    glove.write_text("".join(f"{w} {' '.join(['0.5'] * 8)}\n" for w in words))
    options = [*SMALL, *sets, *places(tmp_path), f"--data.glove={glove}"]
    options += [f"--model.network.init_args.freeze_embedding={frozen}"]
    main(["fit", *options])
    assert "tiny.8d.txt has" in caplog.text
    state = load(last(tmp_path))
    rows = [state["text"]["vocabulary"].index(word) for word in words]
    loaded = state["state_dict"]["network.embedding.weight"][rows]
    assert loaded.eq(0.5).all() == (frozen == "true")
    torch.testing.assert_close(loaded, torch.full_like(loaded, 0.5), atol=0.1, rtol=0)
    main(["test", *options])
    (record,) = read_results(tmp_path / "results" / "text.jsonl")
    assert record["word_vectors"]["source"] == "tiny.8d.txt"
    if frozen == "false":
        options = [*SMALL, *sets, *places(tmp_path), f"--ckpt_path={last(tmp_path)}"]
        message = refusal(main, ["test", *options], capsys)
        assert "tiny.8d.txt" in message and "got random" in message and "`--data.glove`" in message
        assert len(list(read_results(tmp_path / "results" / "text.jsonl"))) == 1


def test_bad_input_ends_with_one_sentence(
    sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*SMALL, *places(tmp_path)]
    folder = tmp_path / "data"

    def message(*options: str) -> str:
        text = refusal(main, ["fit", *base, *(options or sets)], capsys)
        assert "Traceback" not in text
        return text

    none = message(f"--data.imdb={tmp_path / 'none'}", sets[1])
    assert "python -m data.prepare imdb" in none
    glove = tmp_path / "glove.5d.txt"
    glove.write_text("film 1 2 3 4 5\n")
    assert "dimension 8" in message(*sets, f"--data.glove={glove}")
    frozen = "--model.network.init_args.freeze_embedding=true"
    assert "`--data.glove`" in message(*sets, frozen)
    assert "conv" in message(*sets, "--model.cnsn.kind=cn", "--model.cnsn.position=post")
    assert "sst2_splits" in message(*sets, "--data.sst2_splits=[test]")
    (folder / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nA film\t3\n")
    assert "dev.tsv, line 2" in message()
    archive = folder / "aclImdb_v1.tar.gz"
    archive.write_bytes(archive.read_bytes()[:3000])
    assert "aclImdb_v1.tar.gz" in message() and not list(tmp_path.rglob("*.ckpt"))


def test_bad_requests_to_predict_end_with_one_sentence(
    sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *SMALL, *sets, *places(tmp_path), "--trainer.max_epochs=1"])
    ckpt = f"--ckpt_path={last(tmp_path)}"
    file = tmp_path / "texts.txt"
    assert "text 1" in refusal(main, ["predict", ckpt, "--text= "], capsys)
    file.write_bytes(b"fine\n\nfine\n")
    assert "line 2" in refusal(main, ["predict", ckpt, f"--file={file}"], capsys)
    file.write_bytes(b"fine\n\xff\n")
    assert "line 2 to be UTF-8" in refusal(main, ["predict", ckpt, f"--file={file}"], capsys)
    absent = refusal(main, ["predict", ckpt, f"--file={tmp_path / 'none.txt'}"], capsys)
    assert "none.txt" in absent and "no such file" in absent
    file.write_bytes(b"")
    assert "is empty" in refusal(main, ["predict", ckpt, f"--file={file}"], capsys)
    assert "no such file" in refusal(main, ["predict", "--ckpt_path=/nowhere", "--text=a"], capsys)
    state = load(last(tmp_path))
    other = tmp_path / "other.ckpt"
    torch.save({k: v for k, v in state.items() if k != "text"}, other)
    assert "another task" in refusal(main, ["predict", f"--ckpt_path={other}", "--text=a"], capsys)

    # The same number of words, but others: weights would be looked up for the wrong words.
    state["text"]["vocabulary"][2:4] = state["text"]["vocabulary"][3:1:-1]
    torch.save(state, other)
    options = ["test", *SMALL, *sets, *places(tmp_path), f"--ckpt_path={other}"]
    assert "its words are others" in refusal(main, options, capsys)


def summarised(parts: Iterable[tuple[Tensor, Tensor, Tensor]], groups: list[str]) -> dict[str, Any]:
    """Of batches of logits, labels and groups."""
    errors, confusion = (
        GroupedErrors(len(groups), pooled=slice(1, None)),
        ConfusionMatrices(len(groups), 2),
    )
    for logits, label, group in parts:
        errors.update(logits, label, group)
        confusion.update(logits.argmax(-1), label, group)
    return summarise(errors.compute(), confusion.compute(), groups)


def test_metrics_equal_counting_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 2, generator=generator)
    label = torch.randint(0, 2, (200,), generator=generator)
    group = torch.randint(0, 3, (200,), generator=generator)
    parts = [(logits[p], label[p], group[p]) for p in torch.arange(200).split(33)]
    found = summarised(parts, ["imdb-test", "sst2-dev", "sst2-test"])
    right = logits.argmax(1) == label
    for place, entry in enumerate(found["test_sets"]):
        own = group == place
        assert entry["n"] == int(own.sum())
        assert entry["accuracy"] == pytest.approx(right[own].float().mean().item())
        for truth in (0, 1):
            for said in (0, 1):
                count = (own & (label == truth) & (logits.argmax(1) == said)).sum()
                assert entry["confusion"][truth][said] == count
    pooled = right[group > 0].float().mean().item()
    assert found["summary"]["sst2_accuracy"] == pytest.approx(pooled)
    single = GroupedErrors(2)
    single.update(logits[group > 0], label[group > 0], torch.ones_like(group[group > 0]))
    assert found["summary"]["sst2_ece"] == pytest.approx(single.compute()["ece"][1].item())


def test_wilson_interval_equals_published_values() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    for correct, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(correct, n) == pytest.approx((low, high), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="`correct`"):
        wilson_interval(3, 2)


def test_a_limited_evaluation_may_leave_a_test_set_out() -> None:
    """The shortest texts come first: a trial of a few batches sees SST-2 alone."""
    batch = torch.eye(2), torch.tensor([0, 1]), torch.tensor([1, 1])
    found = summarised([batch], ["imdb-test", "sst2-dev"])
    assert found["test_sets"][0]["n"] == 0 and found["test_sets"][0]["interval_95"] == (0, 1)
    assert found["summary"]["sst2_accuracy"] == 1 and math.isnan(found["summary"]["accuracy"])
    assert math.isnan(found["test_sets"][0]["accuracy"])


def test_curves_are_drawn_from_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table.load(Path("configs/studies/imdb_sst2.yaml"))
    monkeypatch.setattr(sys, "argv", ["text_curves", "imdb_sst2", f"--results={tmp_path}"])
    with pytest.raises(SystemExit, match=r"^error: Expected records of imdb_sst2 .*run it first"):
        curves()
    lines = [
        {
            "task": "text",
            "name": table.run_name(table.rows[0]),
            "dataset": table.dataset,
            "seed": seed,
            "fingerprint": "f",
            "n_train": 4,
            "n_test": 4,
            "recipe": {},
            "selection": "last epoch",
            "summary": {"sst2_accuracy": 0.7},
            "history": [
                {
                    "epoch": epoch,
                    "error": 0.2 / epoch + seed * epoch / 10,
                    "sst2_error": 0.3 + epoch / 100,
                    "ece": 0.1,
                    "sst2_ece": 0.2,
                }
                for epoch in (1.0, 2.0)
            ],
        }
        for seed in (0, 1)
    ]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = _by_epoch(lines, "error")
    assert points[1] == pytest.approx([20.0, 30.0]) and points[2] == pytest.approx([10.0, 30.0])
    assert draw_curves(table, tmp_path).stat().st_size > 10_000
    # Fewest errors on IMDb: 10 % after epoch 2, and 30 % after epoch 1, as first of two.
    chosen = "| baseline | 20.0 ± 14.1 | 31.5 ± 0.7 | 10.0 ± 0.0 | 20.0 ± 0.0 | 2, 1 | 2 |"
    assert chosen in write_best_epochs(table, tmp_path).read_text()


def test_tables_of_the_task_name_its_records(root: Path) -> None:
    """Every column is a figure that a test of the task leaves."""
    batch = torch.eye(2).repeat(3, 1), torch.tensor([0, 1] * 3), torch.arange(6) // 2
    for name, groups in (
        ("paper/sst2", ["imdb-test", "sst2-dev", "sst2-test"]),
        ("studies/imdb_sst2", ["imdb-test", "sst2-dev", "sst2-train"]),
    ):
        table = Table.load(root / "configs" / f"{name}.yaml")
        assert set(table.columns) <= set(summarised([batch], groups)["summary"])
        assert {row.name for row in table.rows} == {"baseline", "CN", "SN", "CNSN"}
