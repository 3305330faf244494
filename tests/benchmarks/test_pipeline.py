"""What the benchmarks of data, evaluation and scaling are built of, against figures by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import evaluate, scaling
from benchmarks.table import Table, rates
from benchmarks.timing import Turns, _Queue, _waited, take_turns
from benchmarks.traffic import bytes_sent, measured_traffic, network, ring_bytes, sizes_of
from cnsn import CNSNSpec


def test_candidates_take_turns_by_any_clock() -> None:
    now, calls = [0.0], list[str]()

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds

    sides = {"slow": lambda: work("slow", 3.0), "fast": lambda: work("fast", 1.0)}
    device = torch.device("cpu")
    turns = take_turns(sides, seconds=0, device=device, at_least=6, clock=lambda: now[0])
    assert calls[:4] == ["slow", "fast", "slow", "fast"] and len(calls) == 2 * (1 + 6)
    assert turns.times == {"slow": [3000.0] * 6, "fast": [1000.0] * 6}
    assert turns.ratio("slow", "fast") == (3, 3, 3)


class SlowHost:
    """A host that needs 0.5 ms for a launch, and a device that needs 0.02 ms for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.busy = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        host = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = 0.0

            def record(self) -> None:
                self.at = max(host.busy, host.now)

            def query(self) -> bool:
                return self.at <= host.now

            def elapsed_time(self, other: Event) -> float:
                return 1e3 * (other.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.work(cycles / 2e9))
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)
        monkeypatch.setattr(_Queue, "FLUSHED", 64)

    def work(self, seconds: float) -> None:
        self.busy = max(self.busy, self.now) + seconds

    def wait(self, *_: object) -> None:
        self.now = max(self.now, self.busy)

    def launch(self) -> None:
        self.now += 0.5e-3
        self.work(0.02e-3)


def test_queued_launches_count_for_what_the_device_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SlowHost(monkeypatch)
    queue = _Queue(torch.device("cpu"))

    def run() -> None:
        for _ in range(7):
            host.launch()

    assert queue.milliseconds(run) == pytest.approx(7 * 0.02)
    # Ten runs from idle to idle take as long as the host needs.
    assert _waited(run, 10, torch.device("cpu")) == pytest.approx(7 * 0.5, rel=0.01)

    def waits() -> None:
        host.launch()
        host.wait()

    with pytest.raises(RuntimeError, match="does not wait for the device"):
        queue.milliseconds(waits)


def test_rates_and_table() -> None:
    turns = Turns({"a": [1000.0, 2000.0, 4000.0]})
    assert rates(turns, "a", 8) == ("4", "2-8")
    table = Table("a", "b")
    table.add("x", 1)
    assert str(table) == "| a | b |\n| --- | --- |\n| x | 1 |"


def test_all_ways_to_test_find_the_same_errors(tmp_path: Path) -> None:
    corruptions = ["fog", "snow"]
    evaluate.write_sets(tmp_path, 30, corruptions)
    tests = evaluate.Tests(tmp_path, 30, corruptions, evaluate.Pooled, torch.device("cpu"))
    with torch.inference_mode():
        found = tests.one_pass()
        assert len(found) == 10 and len(set(found)) > 1
        assert tests.set_by_set() == pytest.approx(found)
        assert tests.as_published() == pytest.approx(found)


def test_sizes_and_the_ring_by_hand() -> None:
    net = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20))
    net[0].bias.requires_grad_(False)
    assert sizes_of(net) == (4 * (200 + 40), 4 * 40 + 8)
    assert ring_bytes(800, 8) == 1400
    added = sizes_of(network("cnsn", 1)).gradients - sizes_of(network("none", 1)).gradients
    # SelfNorm: two weights, scale and shift of each channel; two blocks of each of three widths.
    assert added == 4 * 4 * 2 * (16 + 32 + 64)


@pytest.mark.slow  # three processes import torch
def test_two_processes_send_what_was_calculated() -> None:
    assert bytes_sent() >= 0
    sizes = sizes_of(network("cnsn", 1))
    found = measured_traffic(2, "cnsn")
    wanted = ring_bytes(sizes.gradients, 2) + scaling.broadcast_bytes(sizes.buffers, 2)
    assert found.sent == pytest.approx(wanted, rel=0.1)


def test_the_paper_networks_on_paper() -> None:
    lines = str(scaling.on_paper()).splitlines()
    assert len(lines) == 2 + 3
    resnet = next(line for line in lines if "| ResNet-50 |" in line).split(" | ")
    # 25.557 million parameters and SelfNorm's 4 x 15,104 in 16 blocks, in float32.
    channels = 3 * 256 + 4 * 512 + 6 * 1024 + 3 * 2048
    assert float(resnet[1]) == pytest.approx(4 * (25_557_032 + 4 * channels) / 1e6, abs=0.1)
    assert float(resnet[3]) == pytest.approx(float(resnet[1]) * 2 * 7 / 8, rel=1e-3)


def test_maps_kept_grow_with_the_batch() -> None:
    settings = [scaling.Setting(batch=batch, size=8) for batch in (2, 4)]
    kept = [scaling.step_of(s, CNSNSpec(), torch.device("cpu"))[1] for s in settings]
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.05)
