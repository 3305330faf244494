"""Forward and backward of the layers against the textbook's, in copies of the map.

    python -m benchmarks.layers                  # 1 and 2 threads, about 2 minutes
    python -m benchmarks.layers --device cuda

A copy is ``y.copy_(x)``, one read and one write of the map, in the same process. The reference is
:mod:`cnsn.functional`, which the kernels are held to. Of each layer: forward, forward and backward,
the bytes that it keeps for backward. The candidates take turns; ratios are those of neighbouring
turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from benchmarks.textbook import Box, TextbookCrossNorm, TextbookSelfNorm
from benchmarks.timing import take_turns
from cnsn import CrossNorm, SelfNorm, kernels
from tasks.cli import keep_freed_memory

SHAPES = ((128, 32, 32, 32), (128, 64, 16, 16), (128, 128, 8, 8), (32, 256, 56, 56))
CUDA_SHAPES = (*SHAPES, (128, 64, 32, 32))
LAYERS = ("SelfNorm", "neither", "style", "content", "both")
HEADER = (
    "map", "layout", "layer", "forward, copies", "forward + backward, copies", "textbook, copies",
    "textbook / ours", "quartiles", "reference / ours", "bytes kept", "textbook's",
)  # fmt: skip

Function = Callable[[Tensor], Tensor]


def layers(name: str, x: Tensor) -> tuple[Function, Function]:
    """Ours and the textbook's, with the same parameters, partners and boxes of half the area."""
    if name == "SelfNorm":
        ours, textbook = SelfNorm(x.shape[1]), TextbookSelfNorm(x.shape[1])
        textbook.load_state_dict(ours.state_dict())
        return ours.to(x.device), textbook.to(x.device)
    size = x.shape[2]
    side = round(size * 0.5**0.5)
    order = torch.randperm(len(x))
    content: Box | None = (1, size - side, side, side) if name in ("content", "both") else None
    style: Box | None = (size - side, 1, side, side) if name in ("style", "both") else None

    class Fixed(CrossNorm):
        def draw(self, shape: torch.Size) -> tuple[Tensor, Box | None, Box | None]:
            return order, content, style

    layer = Fixed(crop=name)  # type: ignore[arg-type]
    layer.active = True
    place = order.to(x.device)
    book = TextbookCrossNorm()
    return layer, lambda x: book(x, place, content, style)


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


def measure(x: Tensor, name: str, seconds: float, layout: str) -> str:
    ours, textbook = layers(name, x)
    dy, copy = torch.randn_like(x), torch.empty_like(x)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()

    def both(layer: Function) -> Callable[[], None]:
        def run() -> None:
            leaf.grad = None
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
    )
    in_copies = [turns.ratio(n, "copy")[0] for n in ("forward", "ours", "textbook")]
    median, first, third = turns.ratio("textbook", "ours")
    label = name if name == "SelfNorm" else f"CrossNorm, crop {name}"
    cells = [
        f"{tuple(x.shape)}",
        f"{layout}, {str(x.dtype).removeprefix('torch.')}",
        label,
        *(f"{c:.1f}" for c in in_copies),
        f"{median:.1f}",
        f"{first:.1f}-{third:.1f}",
        f"{turns.ratio('reference', 'ours')[0]:.1f}",
        *(f"{bytes_kept(layer, leaf):.2f}" for layer in (ours, textbook)),
    ]
    return f"| {' | '.join(cells)} |"


def table(device: torch.device, seconds: float, dtypes: list[torch.dtype]) -> list[str]:
    lines = [f"| {' | '.join(HEADER)} |", "| --- " * len(HEADER) + "|"]
    for shape in SHAPES if device.type == "cpu" else CUDA_SHAPES:
        for dtype in dtypes:
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
                text = "channels_last" if layout == torch.channels_last else "contiguous"
                for name in LAYERS:
                    lines.append(measure(x, name, seconds, text))
                    print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on CPU")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each line")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="float32, bfloat16")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark_layers.md"))
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    dtypes = [getattr(torch, name) for name in options.dtypes]
    text = "# Layers: time and memory against the textbook's\n"
    for threads in options.threads if options.device == "cpu" else [None]:
        if threads is not None:
            torch.set_num_threads(threads)
            text += f"\n## {threads} thread{'s' if threads > 1 else ''}\n"
        text += "\n" + "\n".join(table(device, options.seconds, dtypes)) + "\n"
    text += (
        "\nA copy is one read and one write of the map. Medians of the ratios of neighbouring "
        "turns in one process; quartiles are those of textbook / ours. Bytes kept for backward "
        f"are in maps. {machine()}. Made by `python -m benchmarks.layers`.\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)


if __name__ == "__main__":
    main()
