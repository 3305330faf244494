"""Training steps of the text task, in CPU seconds an epoch and as ratios to the plain network.

    python -m benchmarks.text --imdb ~/datasets --sst2 ~/datasets

Real reviews in the task's own batches, the paper's network. All variants take turns in one process,
step by step on the same batch, and CPU time is counted, so that other load matters little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import command, machine
from benchmarks.table import Table, save
from cnsn import CNSNSpec, crossnorm_active, insert
from cnsn.nets import TextCNN
from cnsn.nets.text_cnn import TextConvolution
from data.text.module import IMDbToSST2
from tasks.engine.memory import keep_freed_memory
from tasks.engine.optim import OptimizerSpec, build_optimizer

KINDS = {"plain": "none", "CN active at one site": "cn", "SN": "sn", "CNSN, CN active": "cnsn"}


class Convolved(TextCNN):
    """The same network by ordinary convolutions."""

    def _maps_by_word(self, tokens: Tensor, blocks: list[TextConvolution]) -> list[Tensor]:
        words = self.embedding(tokens).transpose(1, 2)
        return [block.conv(words) for block in blocks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imdb", required=True)
    parser.add_argument("--sst2", required=True)
    parser.add_argument("--steps", type=int, default=20, help="of every variant")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_text.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data = IMDbToSST2(options.imdb, options.sst2, sst2_splits=["dev"])
    data.setup("fit")
    size = data.vocabulary_size
    nets: dict[str, TextCNN] = {
        name: insert(TextCNN(vocabulary_size=size), CNSNSpec(kind=kind, position="conv"))  # type: ignore[arg-type]
        for name, kind in KINDS.items()
    }
    nets["plain, by ordinary convolutions"] = Convolved(vocabulary_size=size)
    spec = OptimizerSpec(algorithm="adam", lr=1e-3, weight_decay=0.0, schedule="constant")
    optimizers = {name: build_optimizer(net.parameters(), spec, 1)[0] for name, net in nets.items()}
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    loader = data.train_dataloader()
    for number, batch in enumerate(loader):
        for name, net in nets.items():
            start = time.process_time()
            active = crossnorm_active(net, 1) if "CN active" in name else nullcontext()
            with active:
                logits = net(batch["tokens"], batch["length"])
            optimizers[name].zero_grad()
            F.cross_entropy(logits, batch["label"]).backward()
            optimizers[name].step()
            if number > 1:  # the first steps allocate
                seconds[name].append(time.process_time() - start)
        if number > options.steps:
            break
    plain = seconds["plain"]
    table = Table("network", "CPU seconds an epoch", "relative to plain")
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, plain, strict=True))
        table.add(name, f"{statistics.mean(own) * len(loader):.0f}", f"{ratio:.2f}")
    words = int(data.corpus.parts["train"].lengths.clamp(max=data.max_length).sum())
    text = (
        f"# Training steps of the text task\n\n{table}\n\n"
        f"{len(loader)} batches of {data.batch_size} reviews an epoch, {words:,} words, vocabulary "
        f"of {size:,}, 300-d vectors; {options.steps} batches measured. Padding: "
        f"{100 * data.padding:.1f} % of positions. One thread of {machine()}. Made by "
        f"`{command()}`.\n"
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
