"""Small folders of results, tables and runs, as the suite writes them, to make pages of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CORRUPTIONS = ("fog", "contrast")
HOSTILE = 'x<script>alert(1)</script>"&|y'
TABLE = """
title: "Small set: errors in %, lower is better"
dataset: small set
task: classification
configs: []
note: A note with `code`.
rows:
  - {name: baseline, network: Net}
  - {name: CN, network: Net, reported: 12.5}
  - {name: SN, network: Net}
"""
NOT_RUN = """
title: "Nothing yet: errors in %"
dataset: other set
task: text
configs: []
rows: [{name: baseline, network: Net}]
"""


def bins(gap: float) -> dict[str, list[float]]:
    """15 bins of which the two last are filled, with an accuracy `gap` below the confidence."""
    confidence = [0.0] * 13 + [0.9, 0.98]
    accuracy = [0.0] * 13 + [0.9 - gap, 0.98 - gap]
    return {"n": [0] * 13 + [25, 75], "accuracy": accuracy, "confidence": confidence}


def record(name: str, seed: int, mce: float, *, calibrated: bool = True) -> dict[str, Any]:
    conditions = [{"corruption": "clean", "severity": 0, "error": 0.05, "ece": 0.02, "n": 100}]
    conditions += [
        {"corruption": c, "severity": s, "error": mce + 0.01 * (s - 3), "ece": 0.1, "n": 100}
        for c in CORRUPTIONS
        for s in range(1, 6)
    ]
    found: dict[str, Any] = {
        "task": "classification",
        "name": name,
        "seed": seed,
        "config_hash": "0123abcd",
        "dataset": "small set",
        "fingerprint": "f00",
        "n_train": 10,
        "n_test": 100,
        "recipe": {"trainer": {"max_epochs": 2}},
        "selection": "last epoch",
        "summary": {"error": 0.05, "mce": mce, "ece": 0.02, "corrupted_ece": 0.1},
        "conditions": conditions,
        "corruptions": list(CORRUPTIONS),
        "time": "2026-01-02T03:04:05+00:00",
        "commit": "abc",
    }
    if calibrated:
        found["reliability"] = {"clean": bins(0.02), "corrupted": bins(0.2)}
    return found


def write_results(folder: Path) -> Path:
    """Two of three rows, a hostile line of the user's own, a half-written one, a benchmark."""
    folder.mkdir(parents=True)
    lines = [record("small/Net/baseline", seed, 0.2 + 0.02 * seed) for seed in (0, 1, 2)]
    lines += [record("small/Net/CN", seed, 0.11) for seed in (0, 1)]
    lines.append(record(HOSTILE, 0, 0.3))
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"name": "half'
    (folder / "classification.jsonl").write_text(text)
    speeds = "| what | images/s |\n| --- | --- |\n| a | 1,200 |\n| b | 900 |\n"
    (folder / "benchmark_x.md").write_text(f"# Speed\n\n{speeds}")
    return folder


def write_configs(folder: Path) -> Path:
    (folder / "studies").mkdir(parents=True)
    (folder / "paper").mkdir()
    (folder / "studies" / "small.yaml").write_text(TABLE)
    (folder / "paper" / "empty.yaml").write_text(NOT_RUN)
    return folder


def write_run(folder: Path, task: str, name: str, rows: list[str], header: str) -> Path:
    """A run directory of seed 0 with `rows` of a metrics.csv."""
    path = folder / task / name / "seed0-0123abcd"
    metrics = path / "metrics" / "version_0"
    metrics.mkdir(parents=True)
    (path / "config.yaml").write_text(f"seed_everything: 0\nname: {name}\n")
    (metrics / "metrics.csv").write_text("\n".join([header, *rows]))
    return path


def write_runs(folder: Path) -> Path:
    """A run of the table's, a FixMatch and a segmentation run, and adaptation's pictures."""
    header = "epoch,step,train/loss,val/error"
    rows = [f"0,{step},{2 - step / 100},{'' if step % 40 else 0.5}" for step in range(0, 100, 10)]
    run = write_run(folder, "classification", "small/Net/baseline", [*rows, "0,10"], header)
    again = run / "metrics" / "version_1"
    again.mkdir()
    (again / "metrics.csv").write_text("epoch,step,train/loss\n1,90,0.25\n1,100,0.5\n")
    (run / "finished.json").write_text("{}")
    rows = [f"0,{step},1.0,{step / 100}" for step in range(0, 100, 10)]
    write_run(folder, "fixmatch", "mine", rows, "epoch,step,train/loss,train/mask_rate")
    scenes = write_run(folder, "segmentation", "scenes", ["0,1,1.0"], "epoch,step,train/loss")
    (scenes / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (60, 1400, 3), dtype=np.uint8)
    for epoch in (1, 2):
        Image.fromarray(noise).save(scenes / "pictures" / f"epoch_{epoch:04d}.png")
    pictures = folder / "pictures"
    pictures.mkdir()
    Image.fromarray(noise).save(pictures / "tsne.png")
    (pictures / "confusion.png").write_bytes(b"no picture")
    return folder
