"""A tiny training of every task, and what of two trainings must be equal, bit by bit."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.engine.results import read_results
from tests.fakes import reviews, write_domains, write_imdb, write_sst2
from tests.reliability.launcher import Launcher, Process
from tests.segmentation_fakes import write_cityscapes, write_gta5

ROOT = Path(__file__).resolve().parents[2]

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.max_epochs=2",
    "--speed=false",  # figures that differ from run to run
]
BOTH = ["--model.cnsn.kind=cnsn"]
# Of two epochs, in batches.
EPOCH = {"classification": 5, "fixmatch": 5, "segmentation": 4, "text": 5, "adaptation": 5}
OPTIONS = {
    "classification": [
        *("--config=configs/digits.yaml", "--data.batch_size=16", *BOTH),
        *("--model.cnsn.crop=both", "--data.jitter=0.2", "--data.eval_batch_size=40"),
        *("--trainer.limit_train_batches=5", "--trainer.limit_val_batches=2"),
    ],
    "fixmatch": [
        *("--config=configs/fixmatch_digits.yaml", "--data.batch_size=6", *BOTH),
        *("--data.unlabelled_ratio=2", "--data.steps_per_epoch=5", "--model.threshold=0.11"),
        *("--data.eval_batch_size=40", "--trainer.limit_val_batches=2"),
    ],
    "segmentation": [
        *("--config=configs/scenes.yaml", "--data.source_root=source", *BOTH),
        *("--data.target_root=target", "--data.crop_size=16", "--data.batch_size=2"),
        *("--model.network.init_args.width=4", "--model.cnsn.position=residual"),
        *("--data.eval_batch_size=2", "--data.workers=0"),
    ],
    "text": [
        *("--config=configs/sst2.yaml", "--model.network.init_args.dimension=8", *BOTH),
        *("--model.network.init_args.filters=6", "--data.min_count=1", "--data.batch_size=12"),
        *("--model.crossnorm.k=2", "--data.eval_batch_size=20"),
    ],
    "adaptation": [
        *("--config=configs/domains.yaml", "--data.source=plain", "--data.target=dim", *BOTH),
        *("--data.resize=24", "--data.crop=16", "--data.batch_size=6", "--model.style=target"),
        *("--model.network.init_args.width=4", "--model.network.init_args.blocks=[1,1]"),
        *("--model.batch_norm=per_domain", "--model.adversary.weight=1"),
        *("--model.adversary.hidden=8", "--data.eval_batch_size=5"),
    ],
}
# Options of a test on less than everything, where the whole takes long.
TEST = {
    "classification": ["--data.corruptions=[]"],
    "fixmatch": ["--data.corruptions=[]"],
}
WEIGHTS = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "recipe")
# A task's own part of a checkpoint: EMA is in the weights.
OWN = ("text", "evaluations", "pseudo_labels")


def write_data(folder: Path) -> None:
    """Small sets of all tasks below `folder`."""
    write_gta5(folder / "scenes" / "source", 12)
    write_cityscapes(folder / "scenes" / "target", 5)
    write_imdb(folder / "text", reviews(28), pack=True)
    write_sst2(folder / "text")
    counts = {"plain": {"a": 9, "b": 9, "c": 8}, "dim": {"a": 5, "b": 4, "c": 4}}
    write_domains(folder / "domains", counts)


def options(task: str, data: Path, place: Path, *more: str) -> list[str]:
    """Of a tiny training that writes below `place`."""
    named = {
        "segmentation": [f"--data.root={data / 'scenes'}"],
        "text": [f"--data.imdb={data / 'text'}", f"--data.sst2={data / 'text' / 'SST-2'}"],
        "adaptation": [f"--data.root={data / 'domains'}"],
    }
    places = [f"--runs={place / 'runs'}", f"--results={place / 'results'}"]
    return [*OPTIONS[task], *QUIET, *named.get(task, []), *places, *more]


def run_directory(place: Path) -> Path:
    (path,) = place.glob("runs/*/*/seed*")
    return path


def checkpoint(place: Path, name: str = "last.ckpt") -> dict[str, Any]:
    path = run_directory(place) / "checkpoints" / name
    return torch.load(path, map_location="cpu", weights_only=True)


def differing(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Where two nested values differ in any bit; NaN equals NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        same = same and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
        if not same:
            yield at
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key in one and key in other:
                yield from differing(one[key], other[key], f"{at}.{key}")
            else:
                yield f"{at}.{key} is missing"
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield f"{at} has {len(one)} and {len(other)} entries"
        for place, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differing(a, b, f"{at}[{place}]")
    else:
        nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one)
        if one != other and not (nan and math.isnan(other)):
            yield f"{at}: {one!r} and {other!r}"


def training_of(place: Path) -> dict[str, Any]:
    """All that a finished training has learnt and measured."""
    last = checkpoint(place)
    found = {key: last[key] for key in (*WEIGHTS, *OWN) if key in last}
    best = run_directory(place) / "checkpoints" / "best.ckpt"
    if best.is_file():
        content = torch.load(best, map_location="cpu", weights_only=True)
        found["best"] = {key: content[key] for key in WEIGHTS}
    found["metrics"] = metrics_of(place)
    return found


def metrics_of(place: Path) -> dict[tuple[int, str], str]:
    """Every logged value by step and name; a step done twice must have the same ones twice.

    The learning curve of a run that was stopped is in several files, one a start.
    """
    found: dict[tuple[int, str], str] = {}
    folder = run_directory(place) / "metrics"
    for path in sorted(folder.glob("version_*/metrics.csv"), key=lambda p: p.parent.name):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                for name, value in row.items():
                    if value and name is not None:
                        before = found.setdefault((step, name), value)
                        assert before == value, f"{name} of step {step}: {before}, then {value}"
    return found


def results_of(task: str, place: Path) -> list[dict[str, Any]]:
    """The result lines without what must differ: time and place."""
    records = list(read_results(place / "results" / f"{task}.jsonl"))
    for record in records:
        for name in ("seconds", "time", "finished"):
            record.pop(name)
    return records


def assert_equal_trainings(one: Path, other: Path, lost: frozenset[int] = frozenset()) -> None:
    """Compare them; `one` may lack the logged figures of the steps `lost`.

    A process killed in the moment between a checkpoint and the writing of its step's figures has
    no time for these.
    """
    trainings = [training_of(one), training_of(other)]
    for key in list(trainings[1]["metrics"]):
        if key[0] in lost and key not in trainings[0]["metrics"]:
            del trainings[1]["metrics"][key]
    found = list(differing(*trainings))
    assert not found, "\n".join(found[:20])


def succeeded(process: Process) -> str:
    """What it printed."""
    code = process.wait()
    assert code == 0, f"exit code {code}:\n{process.output()}"
    return process.output()


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    folder = tmp_path_factory.mktemp("launcher")
    (folder / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNSN_CACHE", str(folder / "cache"))
        with Launcher(ROOT, folder) as launcher:
            yield launcher


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder
