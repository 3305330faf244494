"""A training step of WideResNet-40-2 with the layers, as a ratio to the network without them.

    python -m benchmarks.step                    # eager, about a minute
    python -m benchmarks.step --compile          # compiled as well; needs a C++ compiler
    python -m benchmarks.step --device cuda --batch 128 --autocast --compile

A step is forward, cross-entropy, backward and SGD on 32x32 images in channels_last. "CNSN" is what
the method trains with: SelfNorm in every block and CrossNorm at one of them, drawn anew each step.
The networks take turns in one process; ratios are those of neighbouring turns. One thread is timed
by the processor's time; a GPU by the clock, ten steps from idle to idle.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import command, machine
from benchmarks.table import Table, save
from benchmarks.textbook import TextbookCrossNorm, TextbookSelfNorm
from benchmarks.timing import Turns, take_turns
from cnsn import CNSN, CNSNSpec, crossnorm_active, insert
from cnsn.insert import crossnorm_sites
from cnsn.nets import wide_resnet
from tasks.engine.memory import keep_freed_memory

HEADER = ("step", "ms", "quartiles", "/ baseline", "quartiles", "maps kept, MB")


class TextbookCNSN(nn.Module):
    """The textbook's layers behind the interface of :class:`cnsn.CNSN`."""

    def __init__(self, layers: CNSN) -> None:
        super().__init__()
        assert layers.crossnorm is not None and layers.selfnorm is not None
        self.switch = layers.crossnorm
        self.crossnorm = TextbookCrossNorm()
        self.selfnorm = TextbookSelfNorm(layers.selfnorm.channels)
        self.selfnorm.load_state_dict(layers.selfnorm.state_dict())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.switch.active:
            order = torch.randperm(len(x)).to(x.device)
            x = self.crossnorm(x, order)
        return self.selfnorm(x)


def networks(depth: int, device: torch.device) -> dict[str, nn.Module]:
    base = wide_resnet(depth=depth, width=2)
    found = {"baseline": base}
    for name, kind in (("SN", "sn"), ("CNSN", "cnsn")):
        found[name] = insert(copy.deepcopy(base), CNSNSpec(kind=kind))  # type: ignore[arg-type]
    textbook = copy.deepcopy(found["CNSN"])
    for module in textbook.modules():
        if isinstance(getattr(module, "cnsn", None), CNSN):
            module.cnsn = TextbookCNSN(module.cnsn)  # type: ignore[arg-type]
    found["textbook CNSN"] = textbook
    return {
        name: net.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, net in found.items()
    }


def step(
    net: nn.Module, forward: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype | None
) -> Callable[[], None]:
    """What one step of training does; `forward` is `net` or `net` compiled."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=images.is_cuda)
    k = min(1, len(crossnorm_sites(net)))

    def run() -> None:
        with (
            torch.autocast(images.device.type, dtype, enabled=dtype is not None),
            crossnorm_active(net, k=k),
        ):
            loss = F.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def megabytes_kept(net: nn.Module, images: Tensor, dtype: torch.dtype | None = None) -> float:
    """Distinct memory that a forward keeps for backward, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with (
        torch.autocast(images.device.type, dtype, enabled=dtype is not None),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
    ):
        loss = net(images).sum()
    del loss
    return sum(kept.values()) / 1e6


def add_rows(table: Table, turns: Turns, label: str, kept: dict[str, float]) -> None:
    for name in turns.times:
        first, third = turns.spread(name)
        ratio, low, high = turns.ratio(name, "baseline")
        table.add(
            f"{name}, {label}",
            f"{turns.median(name):.1f}",
            f"{first:.1f}-{third:.1f}",
            f"{ratio:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{kept[name]:.0f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on CPU")
    parser.add_argument("--depth", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=25.0, help="for each table of ratios")
    parser.add_argument("--turns", type=int, default=3, help="at least, of each network")
    parser.add_argument("--autocast", action="store_true", help="bfloat16")
    parser.add_argument("--compile", action="store_true", help="compiled networks as well")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_step.md"))
    options = parser.parse_args()
    if (
        options.compile
        and options.device == "cpu"
        and not (shutil.which("g++") or shutil.which("clang++"))
    ):
        parser.error("Expected a C++ compiler for --compile, but found neither g++ nor clang++.")
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # as the tasks run
    keep_freed_memory()
    device, dtype = torch.device(options.device), torch.bfloat16 if options.autocast else None
    images = torch.randn(options.batch, 3, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=device)
    table = Table(*HEADER)
    nets = networks(options.depth, device)
    kept = {name: megabytes_kept(net, images, dtype) for name, net in nets.items()}
    eager = {name: step(net, net, images, labels, dtype) for name, net in nets.items()}
    # Processor time counts every thread.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    measure = partial(
        take_turns, seconds=options.seconds, device=device, clock=clock, at_least=options.turns
    )
    add_rows(table, measure(eager), "eager", kept)
    if options.compile:
        # The textbook's random draws break its graph, and SN's is a part of CNSN's.
        del nets["textbook CNSN"], nets["SN"]
        fast = {
            name: step(net, torch.compile(net, fullgraph=True), images, labels, dtype)  # type: ignore[arg-type]
            for name, net in nets.items()
        }
        add_rows(table, measure(fast), "compiled", kept)
    by = "processor time" if options.threads == 1 else "the clock"
    where = f"{options.threads} thread(s), by {by}, of " if options.device == "cpu" else ""
    text = (
        f"# A training step with the layers and without\n\n{table}\n\n"
        f"WideResNet-{options.depth}-2, {options.batch} images of 32x32 a step, channels_last, "
        f"{'bfloat16 autocast' if dtype else 'float32'}. Medians; ratios are those of neighbouring "
        "turns in one process. Maps kept are what an eager forward keeps for backward. "
        f"{where}{machine()}. Made by `{command()}`.\n"
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
