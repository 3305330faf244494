"""Forward and backward of the layers against the textbook's, in copies of the map.

    python -m benchmarks.layers                  # a minute or two, up to 6 GB of memory
    python -m benchmarks.layers --threads 2 --out results/benchmark_layers_2_threads.md
    python -m benchmarks.layers --device cuda --dtypes float32 bfloat16

Maps are (B, C, H, W), videos (B, C, T, H, W) and tokens (B, N, C), these also with the first one, a
class token, left out.

A copy is ``y.copy_(x)``, one read and one write of the map, in the same process. The reference is
:mod:`cnsn.functional`, which the kernels are held to. Of each layer: forward, forward and backward,
the bytes that it keeps for backward. The candidates take turns; ratios are those of neighbouring
turns. One thread is timed by the processor's time; a GPU by its own, with launches waiting in its
queue and inputs out of its cache.

The floor of a GPU's two phases is 3 passes over the map forward (read for the statistics; read and
written) and 5 backward (map and gradient read for the sums; both read again, one written): 1.5 and
2.5 copies.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import command, machine
from benchmarks.table import Table, save
from benchmarks.textbook import Box, TextbookCrossNorm, TextbookSelfNorm
from benchmarks.timing import give_back_memory, take_turns
from cnsn import CNSNSpec, CrossNorm, SelfNorm, kernels
from cnsn.kinds import GATES, RESTYLINGS
from tasks.engine.memory import keep_freed_memory

SHAPES: tuple[tuple[int, ...], ...] = (
    (128, 32, 32, 32), (128, 64, 16, 16), (128, 128, 8, 8), (32, 256, 56, 56),
    (16, 64, 8, 28, 28), (64, 197, 384),
)  # fmt: skip
CUDA_SHAPES = (*SHAPES, (128, 64, 32, 32))
LAYERS = ("SelfNorm", "neither", "style", "content", "both")
# What has no textbook's form beside it: copies of the map only.
RELATIVES = (*(n for n in RESTYLINGS if n != "crossnorm"), *(n for n in GATES if n != "selfnorm"))
RELATIVES_HEADER = (
    "map", "layout", "layer", "forward, copies", "forward + backward, copies",
    "/ CrossNorm or SelfNorm", "kept",
)  # fmt: skip
PLACE = ["map", "layout"]
FORWARD_FLOOR, BACKWARD_FLOOR = 1.5, 2.5
HEADER = (
    "layer", "forward, copies", "forward + backward, copies", "textbook, copies",
    "textbook / ours", "quartiles", "reference / ours", "kept", "textbook's",
)  # fmt: skip
# On a GPU; without crops, which read less than a map.
AGAINST_FLOOR = ("forward / floor", "backward / floor", "both / floor", "kernels")

Function = Callable[[Tensor], Tensor]


class OfTokens(nn.Module):
    """A layer for maps on (B, N, C) whose first tokens pass."""

    def __init__(self, layer: Function, prefix: int) -> None:
        super().__init__()
        self.layer, self.prefix = layer, prefix

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x[:, self.prefix :].transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
        return torch.cat([x[:, : self.prefix], y], 1) if self.prefix else y


def layers(name: str, x: Tensor, prefix: int = 0) -> tuple[Function, Function]:
    """Ours and the textbook's, with the same parameters, partners and boxes of half the area."""
    tokens = x.ndim == 3
    places = {"channel_dim": -1, "prefix_tokens": prefix} if tokens else {}
    if name == "SelfNorm":
        channels = x.shape[2 if tokens else 1]
        ours, textbook = SelfNorm(channels, **places), TextbookSelfNorm(channels)
        textbook.load_state_dict(ours.state_dict())
        textbook.to(x.device, x.dtype)
        return ours.to(x.device), OfTokens(textbook, prefix) if tokens else textbook
    size = x.shape[1] - prefix if tokens else x.shape[-1]
    side = round(size * (0.5 if tokens else 0.5**0.5))
    sides = (side, 1) if tokens else (side, side)
    order = torch.randperm(len(x))
    corners = (0 if tokens else 1, 0 if tokens else size - side), (size - side, 0 if tokens else 1)
    content: Box | None = (*corners[0], *sides) if name in ("content", "both") else None
    style: Box | None = (*corners[1], *sides) if name in ("style", "both") else None

    class Fixed(CrossNorm):
        def draw(self, shape: torch.Size) -> tuple[Tensor, Box | None, Box | None]:
            return order, content, style

    layer = Fixed(crop=name, **places)  # type: ignore[arg-type]
    layer.active = True
    place = order.to(x.device)
    book = TextbookCrossNorm()

    def textbook_exchange(x: Tensor) -> Tensor:
        return book(x, place, content, style)

    return layer, OfTokens(textbook_exchange, prefix) if tokens else textbook_exchange


def bytes_kept(layer: Function, x: Tensor) -> float:
    """Distinct memory that a forward keeps for its backward, parameters apart, in maps."""
    kept: dict[int, int] = {}
    own = {p.data_ptr() for p in layer.parameters()} if isinstance(layer, nn.Module) else set()

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    del y
    return sum(kept.values()) / (x.numel() * x.element_size())


def kernels_of(events: Iterable[Any]) -> int:
    """How many kernels a profile's events tell of; copies, as of a permutation, are none."""
    names = (e.name for e in events if e.device_type == torch.autograd.DeviceType.CUDA)
    others = ("Memcpy", "Memset", "Activity Buffer", "Command Buffer")  # of the profiler
    return sum(not name.startswith(others) for name in names)


def launched(forward: Callable[[], Any], both: Callable[[], Any]) -> tuple[int, int] | None:
    """Kernels that a forward and a backward launch; None where no profiler can tell."""
    counts = []
    for run in (forward, both):
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            run()
            torch.cuda.synchronize()
        counts.append(kernels_of(profiled.events()))
    first, all_of_them = counts
    return (first, all_of_them - first) if first else None


@dataclass(frozen=True)
class Line:
    """What was measured of a layer on a map."""

    map: str
    layout: str
    layer: str
    copies: tuple[float, float, float]
    ratio: tuple[float, float, float]
    reference: float
    kept: tuple[float, float]
    kernels: tuple[int, int] | None

    def cells(self) -> list[str]:
        median, first, third = self.ratio
        return [
            *self.place(),
            self.layer if self.layer == "SelfNorm" else f"CrossNorm, crop {self.layer}",
            *(f"{c:.2f}" for c in self.copies),
            f"{median:.1f}",
            f"{first:.1f}-{third:.1f}",
            f"{self.reference:.1f}",
            *(f"{k:.2f}" for k in self.kept),
        ]

    def place(self) -> list[str]:
        return [self.map, self.layout]

    def against_floor(self) -> list[str]:
        if self.layer not in ("SelfNorm", "neither"):
            return [""] * len(AGAINST_FLOOR)
        forward, whole, _ = self.copies
        parts = (forward, FORWARD_FLOOR), (whole - forward, BACKWARD_FLOOR)
        parts = *parts, (whole, FORWARD_FLOOR + BACKWARD_FLOOR)
        launched = "" if self.kernels is None else " + ".join(map(str, self.kernels))
        return [*(f"{time / floor:.2f}" for time, floor in parts), launched]


def measure(
    x: Tensor,
    name: str,
    layout: str,
    seconds: float,
    clock: Callable[[], float] = time.process_time,
    prefix: int = 0,
) -> Line:
    ours, textbook = layers(name, x, prefix)
    dy, copy, leaf = torch.randn_like(x), torch.empty_like(x), x.detach().requires_grad_()

    def both(layer: Function) -> Callable[[], None]:
        own = layer.parameters() if isinstance(layer, nn.Module) else ()
        leaves = [leaf, *own]

        def run() -> None:
            for part in leaves:  # Else gradients would be added to the last ones.
                part.grad = None
            layer(leaf).backward(dy)

        return run

    def reference() -> None:
        with kernels.disabled():
            both(ours)()

    turns = take_turns(
        {
            "copy": lambda: copy.copy_(x),
            "forward": lambda: ours(leaf),
            "ours": both(ours),
            "reference": reference,
            "textbook": both(textbook),
        },
        seconds=seconds,
        device=x.device,
        clock=clock,
        queued=True,
    )
    forward, whole, book = (turns.ratio(n, "copy")[0] for n in ("forward", "ours", "textbook"))
    return Line(
        map=f"{tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}",
        layout=layout,
        layer=name,
        copies=(forward, whole, book),
        ratio=turns.ratio("textbook", "ours"),
        reference=turns.ratio("reference", "ours")[0],
        kept=(bytes_kept(ours, leaf), bytes_kept(textbook, leaf)),
        kernels=launched(lambda: ours(leaf), both(ours)) if x.is_cuda else None,
    )


def relatives(
    x: Tensor, layout: str, seconds: float, clock: Callable[[], float]
) -> Iterator[list[str]]:
    """Each restyling beside CrossNorm, and each gate beside SelfNorm, on (B, C, ...)."""
    dy, copy, leaf = torch.randn_like(x), torch.empty_like(x), x.detach().requires_grad_()
    for name in RELATIVES:
        layer: nn.Module
        if restyles := name in RESTYLINGS:
            layer = RESTYLINGS[name].build(CNSNSpec(kind="cn", restyle=name))
        else:
            layer = GATES[name].build(CNSNSpec(kind="sn", gate=name), x.shape[1]).to(x.device)
        known = CrossNorm() if restyles else SelfNorm(x.shape[1]).to(x.device)
        for one in (layer, known):
            one.active = restyles  # type: ignore[assignment]

        def both(one: nn.Module) -> Callable[[], None]:
            def run() -> None:
                for part in (leaf, *one.parameters()):
                    part.grad = None
                one(leaf).backward(dy)

            return run

        turns = take_turns(
            {
                "copy": lambda: copy.copy_(x),
                "forward": partial(layer, leaf),
                "ours": both(layer),
                "known": both(known),
            },
            seconds=seconds,
            device=x.device,
            clock=clock,
            queued=True,
        )
        found = turns.ratio("forward", "copy"), turns.ratio("ours", "copy")
        place = f"{tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}", layout, name
        ratios = (*found, turns.ratio("ours", "known"))
        yield [*place, *(f"{ratio[0]:.2f}" for ratio in ratios), f"{bytes_kept(layer, leaf):.2f}"]
        give_back_memory()


def lines(device: torch.device, options: argparse.Namespace) -> Iterator[Line]:
    # Processor time counts every thread.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for shape in options.shapes or (SHAPES if device.type == "cpu" else CUDA_SHAPES):
        for dtype in options.dtypes:
            x = torch.randn(shape, device=device).to(getattr(torch, dtype))
            for layout, laid_out, prefix in layouts(x):
                for name in LAYERS:
                    yield measure(laid_out, name, layout, options.seconds, clock, prefix)
                    give_back_memory()


def layouts(x: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """In words, the map so, and how many tokens are left out."""
    if x.ndim == 3:
        yield "tokens", x, 0
        yield "tokens, 1 of class", x, 1
        return
    yield "contiguous", x, 0
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    yield "channels_last", x.contiguous(memory_format=last), 0


def shape_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def markdown(rows: list[list[str]]) -> str:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(found: list[Line]) -> str:
    """A row for each map: textbook / ours of the layers, and what of a copy ours take."""
    rows = [[*PLACE, *("SelfNorm" if n == "SelfNorm" else f"CrossNorm, {n}" for n in LAYERS)]]
    by_place: dict[tuple[str, ...], list[str]] = {}
    for line in found:
        cell = f"{line.ratio[0]:.1f} ({line.copies[1]:.1f})"
        by_place.setdefault(tuple(line.place()), []).append(cell)
    return markdown([*rows, *([*key, *cells] for key, cells in by_place.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on CPU")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each line, at least")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="float32, bfloat16")
    parser.add_argument("--shapes", nargs="+", type=shape_of, help="such as 128x32x32x32")
    parser.add_argument(
        "--relatives", action="store_true", help="the other restylings and gates instead"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_layers.md"))
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    cuda = options.device == "cuda"
    if options.relatives:
        clock = time.process_time if options.threads == 1 else time.perf_counter
        others = Table(*RELATIVES_HEADER)
        for shape in options.shapes or (SHAPES[0], SHAPES[1]):
            for row in relatives(
                torch.randn(shape, device=device), "contiguous", options.seconds, clock
            ):
                others.add(*row)
        save(
            f"# The relatives of the layers\n\n{others}\n\n{machine()}. Made by `{command()}`.\n",
            options.out,
        )
        return
    table, found = Table(*PLACE, *HEADER, *(AGAINST_FLOOR if cuda else ())), list[Line]()
    for line in lines(device, options):
        found.append(line)
        table.add(*line.cells(), *(line.against_floor() if cuda else ()))
    clock = "processor time" if options.threads == 1 else "the clock"
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}, by {clock}, of "
    where = (threads if options.device == "cpu" else "The GPU's time, ") + machine()
    text = (
        "# Layers: how many times faster than the textbook's\n\n"
        + summary(found)
        + "\n\nForward and backward: textbook / ours, and in brackets ours in copies of the map "
        "(one read and one write). Medians of the ratios of neighbouring turns in one process. "
        f"{where}. Made by `{command()}`.\n\n## In detail\n\n{table}\n\n"
        "Quartiles are those of textbook / ours; the reference is cnsn.functional. "
        "Kept are the bytes for backward, in maps."
        + (" Kernels are those of forward + backward.\n" if cuda else "\n")
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
