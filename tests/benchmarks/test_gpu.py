"""One call for all that is measured on a GPU: what it keeps, when it stops, and its figures."""

from __future__ import annotations

import re
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import gpu, layers, whole_run
from benchmarks.gpu_figures import figures, rows_of
from benchmarks.table import Table


def line(layer: str, layout: str, forward: float, both: float) -> layers.Line:
    return layers.Line(
        map="(2, 3, 4, 5), float32", layout=layout, layer=layer, copies=(forward, both, 30.0),
        ratio=(4.0, 3.0, 5.0), reference=2.0, kept=(1.0, 4.0), kernels=(3, 4),
    )  # fmt: skip


def test_figures_are_those_of_the_parts_tables() -> None:
    table = Table(*layers.PLACE, *layers.HEADER, *layers.AGAINST_FLOOR)
    for measured in (
        line("SelfNorm", "contiguous", 1.5, 6.0),  # backward 4.5 copies, its floor 2.5
        line("SelfNorm", "channels_last", 1.8, 4.0),
        line("neither", "contiguous", 1.8, 4.8),
        line("both", "contiguous", 9.0, 9.0),
    ):
        table.add(*measured.cells(), *measured.against_floor())
    step = Table("step", "ms", "quartiles", "/ baseline", "quartiles", "maps kept, MB")
    step.add("baseline, eager", 9.0, "8-9", "1.000", "1-1", 3)
    step.add("CNSN, eager", 10.0, "9-10", "1.040", "1.03-1.06", 3)
    waits = Table("steps of", "what waits first")
    for name, found in (("a", "nothing"), ("b", "not run: there is no x"), ("c", "item, at y")):
        waits.add(name, found)
    whole = Table("part", "seconds", "images/s")
    whole.add("epoch 1, with start and validation", 80.0, "")
    whole.add("training, epochs 2 to 9, with validations", 40.0, "10,000")
    whole.add("epochs 10 to 100, calculated", 500.0, "")
    whole.add("all of 100 epochs and the test", 640.0, "")
    parts = {
        # As a part that ended writes it, and as one that did not.
        "layers": f"{table}\n\nWords.",
        "step": f"{step}\n\nWideResNet-40-2, and so on.",
        "synchronisation": f"{waits}",
        "whole_run": f"{whole}",
    }
    expected = """\
| SelfNorm, (2, 3, 4, 5), float32: time / floor | 1.25 | 1.20 forward, 1.80 backward, 1.50 both |
| CrossNorm, crop neither, (2, 3, 4, 5), float32: time / floor | 1.25 \
| 1.20 forward, 1.20 backward, 1.20 both |
| kernels of a layer, forward + backward |  | SelfNorm 3 + 4; CrossNorm, crop neither 3 + 4 |
| step with CNSN / without, WideResNet-40-2, bfloat16 autocast, eager | 1.05 | 1.040 (1.03-1.06) |
| tasks whose steps wait for the device | 0 | 1 of 2: c |
| training, epochs 2 to 9, with validations, compiled: images/s |  | 10,000 |
| all of 100 epochs and the test, compiled: seconds | 360 | 640.0, calculated in part |"""
    assert figures(parts).splitlines()[2:] == expected.splitlines()
    assert len(figures({"layers": "", "step": "no table"}).splitlines()) == 2


def test_rows_of_several_tables() -> None:
    text = "| a | b |\n| --- | --- |\n| 1 | 2 |\n\nwords\n| c | d |\n| --- | --- |\n| 3 |  |\n"
    assert rows_of(text) == [{"a": "1", "b": "2"}, {"c": "3", "d": ""}]


def test_kernels_are_counted_without_copies() -> None:
    kinds = [(DeviceType.CUDA, "moments"), (DeviceType.CUDA, "Memcpy HtoD (Pinned -> Device)")]
    kinds += [(DeviceType.CUDA, "Memset (Device)"), (DeviceType.CPU, "cudaLaunchKernel")]
    events = [SimpleNamespace(device_type=kind, name=name) for kind, name in kinds]
    assert layers.kernels_of(events) == 1


def test_gradients_are_not_added_up_in_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def once(sides: dict, **_: object) -> object:
        for _ in range(2):
            sides["ours"]()
            kept.append([p.grad.clone() for p in ours.parameters()])
        return SimpleNamespace(ratio=lambda *_: (1.0, 1.0, 1.0))

    x = torch.randn(4, 3, 5, 5)
    ours, textbook = layers.layers("SelfNorm", x)
    monkeypatch.setattr(layers, "layers", lambda *_: (ours, textbook))
    monkeypatch.setattr(layers, "take_turns", once)
    layers.measure(x, "SelfNorm", "contiguous", 0.0)
    for first, second in zip(*kept, strict=True):
        assert torch.equal(first, second)


def test_time_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: gpu.Part("", "", "", minutes) for minutes, name in enumerate("abc", start=1)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.limit(["a", "b", "c"], 60 * 6) == 60
    assert gpu.limit(["a", "b", "c"], 60 * 8) == 180  # The others leave more.
    assert gpu.limit(["b", "c"], 60 * 4) == 120
    assert gpu.limit(["c"], 60 * 2) == 120
    assert gpu.limit(["c"], 60 * 9) == 540


def test_a_part_that_takes_too_long_leaves_its_rows_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    rows = "| part | seconds | images/s |\n| --- | --- | --- |\n| all of 2 epochs | 9.0 |  |"
    child = f"import time; open({str(begun)!r}, 'w').write('x'); time.sleep(60)"
    slow = f"import subprocess, sys; print('''{rows}'''); subprocess.run([sys.executable, '-c', "
    slow += f"{child!r}])"
    write = "import sys; open(sys.argv[-1], 'w').write('# Title\\n\\n## Below\\n\\nAll.')"
    python = {"slow": slow, "quick": write, "wrong": "raise SystemExit(3)"}
    monkeypatch.setattr(
        gpu,
        "PARTS",
        {
            name: gpu.Part(f"-c {shlex.quote(code)}", "", "", 0.05 if name == "slow" else 0.5)
            for name, code in python.items()
        },
    )
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    options = Namespace(out=tmp_path / "gpu.md", minutes=1.05, smoke=False, device="cuda")
    options.parts = ["slow", "quick", "wrong"]
    start = time.monotonic()
    with (tmp_path / "log").open("w") as log:
        assert not gpu.measure(options, tmp_path, log)
    assert time.monotonic() - start < 30 and begun.exists()
    text = options.out.read_text()
    assert re.search(
        r"slow out of time, \d+ s; quick done, \d+ s; wrong failed \(3\), \d+ s\.", text
    )
    assert "## slow\n\n" + rows + "\n\nNot finished." in text
    assert "## quick\n\n### Below\n\nAll." in text and "## wrong" not in text
    options.minutes = 0.0
    monkeypatch.setattr(gpu, "SECONDS", 1.0)
    with (tmp_path / "log").open("w") as log:
        assert gpu.measure(options, tmp_path, log)
    assert "slow not begun; quick not begun" in options.out.read_text()


def test_the_time_of_all_epochs_is_that_of_the_first_and_of_those_like_the_others() -> None:
    watch = whole_run.Watch(torch.device("cpu"), 60.0)
    watch.epochs = 9
    watch.marks = {"start": 10.0, "epoch 1": 90.0, "trained": 130.0}
    watch.marks |= {"test sets generated": 150.0, "tested": 170.0}
    options = Namespace(train=1000, test=10, epochs=100, depth=10, compile=True)
    module: Any = SimpleNamespace(metrics={"summary": {"error": 0.5}})
    rows = {row["part"]: row for row in rows_of(whole_run.report(options, watch, module))}
    assert rows["training, epochs 2 to 9, with validations"]["images/s"] == "200"
    assert rows["test on 760 images"] == {
        "part": "test on 760 images",
        "seconds": "20.0",
        "images/s": "38",
    }
    assert rows["epochs 10 to 100, calculated"]["seconds"] == "455.0"
    assert rows["all of 100 epochs and the test"]["seconds"] == "595.0"
    options.epochs = 9
    rows = {row["part"]: row for row in rows_of(whole_run.report(options, watch, module))}
    assert rows["all of 9 epochs and the test"]["seconds"] == "140.0" and len(rows) == 4


def test_training_stops_early_after_an_epoch_that_tells_of_the_others() -> None:
    watch = whole_run.Watch(torch.device("cpu"), 0.0)
    watch.mark("start")
    trainer: Any = SimpleNamespace(should_stop=False, max_epochs=5)
    watch.on_train_epoch_end(trainer)
    assert not trainer.should_stop
    watch.on_train_epoch_end(trainer)
    assert trainer.should_stop


def test_every_part_is_a_command_that_there_is(root: Path) -> None:
    checks = re.findall(
        r"def (test_\w+)", (root / "tests/cnsn/kernels/test_fast_cuda.py").read_text()
    )
    for word in gpu.QUICK.strip("'").split(" or "):
        assert any(word in name for name in checks), word
    assert any(not re.search(gpu.QUICK.strip("'").replace(" or ", "|"), name) for name in checks)
    for name, part in gpu.PARTS.items():
        options = Namespace(device="cuda", smoke=False)
        found = gpu.words(name, options, Path("x.md"), 3.0)
        assert found[0] == sys.executable and found[1] == "-m" and "{" not in " ".join(found)
        module = root / (found[2].replace(".", "/") + ".py")
        assert found[2] == "pytest" or module.is_file()
        source = "" if found[2] == "pytest" else module.read_text()
        named = [word for word in found if word.startswith("--") and source]
        assert all(f'"{word}"' in source for word in named), (name, named)
        assert part.minutes > 0
    whole = gpu.words("whole_run", Namespace(device="cuda", smoke=False), Path("x.md"), 3.0)
    assert whole[whole.index("--minutes") + 1] == "2.2"
