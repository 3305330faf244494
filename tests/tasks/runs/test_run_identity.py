"""A run is known by what was asked for: not by where one stands, nor by where its files lie."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from data.errors import NO_DATA
from tasks.classification.module import main
from tasks.engine.cli import expected_recipe
from tasks.engine.results import append_result, read_results
from tasks.runs.directory import RunDirectory
from tasks.runs.recipe import digests_of
from tasks.tables.lines import same_recipe
from tasks.tables.listing import describe, row_states_of
from tasks.tables.runner import HOPELESS, Places, row_states, runs_of
from tasks.tables.spec import Row, Table
from tests.command_line import places, refusal
from tests.fakes import write_cifar

# Of the version whose hashes held the places of data, as it gave them: a command line of each task
# with that hash, and today's.
KNOWN = {
    "classification --config configs/cifar10.yaml --config configs/nets/wide_resnet.yaml "
    "--data.root /sets/cifar --model.cnsn.kind cnsn --model.cnsn.crop both --model.crossnorm.k 2 "
    "--seed_everything 3": ("16006e85", "5af0ff40"),
    "classification --config configs/imagenet.yaml --config configs/nets/resnet50.yaml --data.root "
    "/sets/imagenet --data.corrupted /sets/imagenetc --model.weights "
    "ResNet50_Weights.IMAGENET1K_V1": ("580eae7e", "78b93e54"),
    "classification --config configs/digits.yaml": ("5361d9bf", "5361d9bf"),
    "fixmatch --config configs/fixmatch.yaml --data.root /sets/cifar --data.labels 250 "
    "--model.cnsn.kind cn": ("b0f9c45f", "11b2aaa3"),
    "segmentation --config configs/gta5.yaml --data.root /sets --data.source_root /sets/gta5 "
    "--data.target_root /sets/cityscapes": ("c218a9c3", "c58bcb0a"),
    "text --config configs/sst2.yaml --data.imdb /sets/imdb --data.sst2 /sets/sst2": (
        "f54aaf71",
        "768682d4",
    ),
    "adaptation --config configs/office31.yaml --data.root /sets/office31 --data.source amazon "
    "--data.target webcam --model.cnsn.kind cnsn": ("609ed7a2", "6e596f97"),
}

pytestmark = pytest.mark.usefixtures("in_the_repository")


def recipe_of(command: str) -> dict[str, Any]:
    task, *arguments = command.split()
    recipe = expected_recipe(task, ["fit", *arguments])
    assert recipe is not None
    return recipe


@pytest.mark.parametrize("command", KNOWN)
def test_runs_of_the_version_before_are_found(tmp_path: Path, command: str) -> None:
    before, now = KNOWN[command]
    recipe = recipe_of(command)
    assert digests_of(recipe) == (now, before)
    moved = json.loads(json.dumps(recipe).replace("/sets/", "/elsewhere/"))
    assert digests_of(moved)[0] == now
    directory = RunDirectory(tmp_path, seed=0, digest=now, older=[before])
    assert directory.path.name == f"seed0-{now}"
    (tmp_path / f"seed0-{before}").mkdir()
    assert RunDirectory(tmp_path, seed=0, digest=now, older=[before]).path.name.endswith(before)


def test_the_working_directory_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    command = f"segmentation --config {root}/configs/gta5.yaml --data.source_root source "
    here = recipe_of(command)
    monkeypatch.chdir(tmp_path)
    assert digests_of(recipe_of(command))[0] == digests_of(here)[0]


# Data by name and fingerprint.

SMALL = {
    "data": "data.classification.CIFAR",
    "data.batch_size": "100",
    "data.corruptions": "[]",
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": "1",
    "trainer.enable_progress_bar": "false",
}
DIGITS = "configs/digits.yaml"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row's run, trained on data that were then moved to "moved", and other data in "other"."""
    folder = tmp_path_factory.mktemp("identity")
    write_cifar(folder / "first")
    write_cifar(folder / "other", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        main(["fit", *given(folder, "first")])
        (folder / "first").rename(folder / "moved")
        main(["test", *given(folder, "moved")])
    return folder


def given(folder: Path, data: str) -> list[str]:
    name = ["--name=toys/Net/baseline", f"--data.root={folder / data}"]
    options = [f"--{key}={value}" for key, value in SMALL.items()]
    return [f"--config={DIGITS}", *options, *name, *places(folder)]


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(read_results(folder / "results" / "classification.jsonl"))


def toys() -> Table:
    return Table(
        key="toys", title="t", dataset="cifar10-subset (200+40 images)", task="classification",
        configs=[DIGITS], rows=[Row(name="baseline", network="Net", options=SMALL)],
        columns={"error": "error"}, metric="error",
    )  # fmt: skip


def states(folder: Path, data: str, **changes: Any) -> set[str]:
    """Of the row's run: what runner and list say, one set as they must not differ."""
    shared: Any = {"runs": folder / "runs", "results": folder / "results"}
    where = Places(**{"root": str(folder / data), **shared, **changes})
    runs = runs_of(toys(), toys().rows, 1, where)
    (listed,) = row_states_of(toys(), toys().rows, 1, where)
    return {state for _, state in row_states(runs)} | set(listed.states)


def test_moved_data_are_the_same_run(trained: Path) -> None:
    assert lines(trained)[0]["selection"] == "last epoch"
    with pytest.raises(SystemExit) as stop:
        main(["fit", *given(trained, "moved")])
    assert stop.value.code == 0
    assert states(trained, "moved") == {"done"}
    # A directory of the version before, which said nothing of its data.
    (directory,) = (trained / "runs").rglob("seed0-*")
    recipe = expected_recipe("classification", ["fit", *given(trained, "moved")])
    old = directory.rename(directory.with_name(f"seed0-{digests_of(recipe or {})[1]}"))
    record = json.loads((old / "finished.json").read_text())
    (old / "finished.json").write_text(json.dumps({k: record[k] for k in record.keys() - {"data"}}))
    with pytest.raises(SystemExit) as stop:
        main(["fit", *given(trained, "moved")])
    assert stop.value.code == 0 and not directory.exists()
    (old / "finished.json").write_text(json.dumps(record))
    old.rename(directory)
    # Without data there is nothing that speaks against it.
    assert states(trained, "nowhere") == {"done"}


def test_other_data_are_never_taken_for_a_run_s_own(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lines(trained)
    own = before[0]["fingerprint"]
    for command in ("fit", "test"):
        message = refusal(main, [command, *given(trained, "other")], capsys)
        assert f"fingerprint {own}), but got" in message and "`--name`" in message
    assert lines(trained) == before
    assert states(trained, "other") == {"partial"}
    # A checkpoint that is named may be tested on anything; the line says that it is no own test.
    (last,) = (trained / "runs").rglob("last.ckpt")
    main(["test", *given(trained, "other"), f"--ckpt_path={last}"])
    *_, record = lines(trained)
    assert record["selection"] == "last epoch of toys/Net/baseline"
    assert record["changed"] == ["data"] and record["fingerprint"] != own
    assert states(trained, "other") == {"partial"} and states(trained, "moved") == {"done"}


def test_published_lines_count_only_when_asked(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of the version before, whose hashes held the places of data."""
    published, runs = trained / "published", trained / "elsewhere"
    if not published.exists():
        old = {**lines(trained)[0], "config_hash": "01234567"}
        append_result(published / "classification.jsonl", old)
    here: Any = {"runs": runs, "results": runs / "results", "published": published}
    assert states(trained, "moved", **here) == {"not run"}
    assert states(trained, "moved", **here, counts_published=True) == {"done"}
    assert states(trained, "other", **here, counts_published=True) == {"not run"}
    monkeypatch.setattr("tasks.tables.listing.operations_of", lambda *_: None)
    where = Places(root=str(trained / "moved"), **here)
    (listed,) = row_states_of(toys(), toys().rows, 1, where)
    assert listed.published == 1 and "published 1" in describe(listed, toys(), 10)


def test_weights_are_known_by_name_and_content(tmp_path: Path) -> None:
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.pth").write_text(text)

    def digest(folder: str) -> str:
        model = {"weights": str(tmp_path / folder / "net.pth")}
        return digests_of({"model": model, "data": {}, "trainer": {}})[0]

    assert digest("a") == digest("b") != digest("c")


def test_a_link_is_known_by_its_own_name(tmp_path: Path) -> None:
    """As of a folder that each job has anew."""
    link, found = tmp_path / "gta5", []
    for number in (1, 2):
        (tmp_path / f"scratch{number}").mkdir()
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"scratch{number}")
        options = f"--config configs/gta5.yaml --data.source_root {link}"
        found.append(digests_of(recipe_of(f"segmentation {options}")))
    assert found[0][0] == found[1][0]
    resolved = f"--config configs/gta5.yaml --data.source_root {link.resolve()}"
    assert found[1][1] == digests_of(recipe_of(f"segmentation {resolved}"))[1]


def test_a_line_of_before_is_known_by_the_weights_name() -> None:
    def recipe(weights: str | None, **options: Any) -> dict[str, Any]:
        return {"model": {"weights": weights, **options}, "trainer": {}}

    older, one, other = (recipe(w) for w in ("net.pth", "net.pth sha256:1", "net.pth sha256:2"))
    assert same_recipe(older, one) and same_recipe(one, older) and not same_recipe(one, other)
    assert not same_recipe(older, recipe("other.pth sha256:1"))
    assert not same_recipe(older, recipe(None))
    assert not same_recipe(older, recipe("net.pth sha256:1", compile=True))


def test_an_infinite_option_is_the_same_in_a_line() -> None:
    line = {"trainer": {"callbacks": [{"threshold": "inf"}]}, "model": {}}
    assert same_recipe(line, {"trainer": {"callbacks": [{"threshold": math.inf}]}, "model": {}})


def test_sets_of_other_names_are_other_runs() -> None:
    """Where the name of a folder is that of the data, unless another is given."""
    sets = recipe_of("segmentation --config configs/gta5.yaml --data.source_root /a/b")
    texts = recipe_of("text --config configs/sst2.yaml --data.glove /a/b")

    def digest(recipe: dict[str, Any], place: str, **options: str) -> str:
        changed = json.loads(json.dumps(recipe).replace("/a/b", place))
        changed["data"]["init_args"].update(options)
        return digests_of(changed)[0]

    for recipe in (sets, texts):
        found = [digest(recipe, place) for place in ("/a/one", "/b/one", "/b/two")]
        assert found[0] == found[1] != found[2]
    named = [digest(sets, place, source_name="day") for place in ("/a/one", "/b/two")]
    assert named[0] == named[1]


def test_no_run_writes_into_the_published_results(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("results", str(root / "results" / "mine")):
        message = refusal(main, ["fit", f"--config={DIGITS}", f"--results={folder}"], capsys)
        assert "to be a folder of your own" in message and "--publish" in message


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classification", "--config=configs/cifar10.yaml --config=configs/nets/wide_resnet.yaml"),
        ("fixmatch", "--config=configs/fixmatch.yaml"),
        ("segmentation", "--config=configs/scenes.yaml"),
        ("text", "--config=configs/sst2.yaml --data.imdb=/nowhere"),
        ("adaptation", "--config=configs/domains.yaml --data.source=plain --data.target=dim"),
    ],
)
def test_missing_data_have_one_exit_code(tmp_path: Path, task: str, options: str) -> None:
    """The runner knows it, and does not try again what cannot succeed."""
    given = [*options.split(), *places(tmp_path), "--trainer.accelerator=cpu"]
    if task != "text":
        given.append("--data.root=/nowhere")
    with pytest.raises(SystemExit) as stop:
        import_module(f"tasks.{task}").main(["fit", *given])
    assert stop.value.code == NO_DATA == 66 and NO_DATA in HOPELESS
