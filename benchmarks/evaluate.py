"""Images per second of a test on corrupted sets: in one pass, and set by set as is usual.

    python -m benchmarks.evaluate [--device cuda --images 1000]

The usual way is that of the published code: for every set a network is built and its weights are
loaded, images are converted by Pillow one by one, and each batch's result is read at once. Between
the two: set by set with this project's batches, and a result read after each batch. Files are in
CIFAR-10-C's layout, 15 corruptions at 5 severities; what the pixels are does not matter here.
Variants take turns in one process; ratios are of neighbouring turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from benchmarks.machine import command, machine
from benchmarks.table import Table, rates, save
from benchmarks.timing import Turns, take_turns
from cnsn.nets import wide_resnet
from data.corruptions.arrays import open_corrupted
from data.corruptions.recipes import CORRUPTIONS
from data.images import EvaluationSets, Group, normalise
from data.loading import evaluation_loader
from tasks.engine.memory import keep_freed_memory
from tasks.engine.metrics import GroupedErrors

HALF = (0.5, 0.5, 0.5)
BATCH = 500
SEVERITIES = 5
WAYS = ("one pass", "set by set", "set by set, as published")
to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(HALF, HALF)])


class Pooled(nn.Module):
    """Next to no network, so that all else can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "next to none": Pooled,
    "WideResNet-40-2": lambda: wide_resnet(depth=40, width=2),
}


def write_sets(folder: Path, n: int, corruptions: Iterable[str]) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "labels.npy", np.tile(np.arange(n) % 10, SEVERITIES))
    for name in corruptions:
        images = rng.integers(0, 256, (SEVERITIES * n, 32, 32, 3), dtype=np.uint8)
        np.save(folder / f"{name}.npy", images)


def open_sets(folder: Path, n: int, corruptions: list[str]) -> EvaluationSets:
    arrays, labels = open_corrupted(folder, corruptions, n)
    parts = [(c, s, slice((s - 1) * n, s * n)) for c in corruptions for s in range(1, 6)]
    return EvaluationSets(
        [Group(c, s) for c, s, _ in parts],
        [arrays[c][part] for c, _, part in parts],
        [np.asarray(labels[part], dtype=np.int64) for *_, part in parts],
    )


class Tests:
    """The ways to test one network on the sets in a folder."""

    def __init__(
        self, folder: Path, n: int, corruptions: list[str], build: Callable[[], nn.Module],
        device: torch.device,
    ) -> None:  # fmt: skip
        self.folder, self.n, self.corruptions = folder, n, corruptions
        self.build, self.device = build, device
        self.weights = folder / "weights.pt"
        torch.manual_seed(0)
        torch.save(build().state_dict(), self.weights)
        self.net = self.loaded()
        self.images = n * SEVERITIES * len(corruptions)
        self.half = device.type == "cuda"

    @contextmanager
    def exact(self) -> Iterator[None]:
        """In float32, on a GPU too."""
        half, self.half = self.half, False
        yield
        self.half = half

    def loaded(self) -> nn.Module:
        net = self.build()
        net.load_state_dict(torch.load(self.weights, weights_only=True))
        return net.to(self.device, memory_format=torch.channels_last).eval()

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return net(images)

    def _batches(self, sets: EvaluationSets, positions: Tensor | None = None) -> Iterable[dict]:
        pinned = self.device.type == "cuda"
        loader = evaluation_loader(sets, batch_size=BATCH, pin_memory=pinned, positions=positions)
        for batch in loader:
            batch = {key: part.to(self.device, non_blocking=True) for key, part in batch.items()}
            yield batch | {"image": normalise(batch["image"], HALF, HALF)}

    def one_pass(self) -> list[float]:
        """As `tasks.classification` tests."""
        sets = open_sets(self.folder, self.n, self.corruptions)
        errors = GroupedErrors(len(sets.groups)).to(self.device)
        for batch in self._batches(sets):
            errors.update(self.logits(self.net, batch["image"]), batch["label"], batch["group"])
        return errors.compute()["error"].tolist()

    def set_by_set(self) -> list[float]:
        sets = open_sets(self.folder, self.n, self.corruptions)
        found = []
        for group in range(len(sets.groups)):
            net, wrong, span = self.loaded(), 0.0, sets.span(group)
            for batch in self._batches(sets, torch.arange(span.start, span.stop)):
                predicted = self.logits(net, batch["image"]).argmax(1)
                wrong += (predicted != batch["label"]).sum().item()
            found.append(wrong / self.n)
        return found

    def as_published(self) -> list[float]:
        labels = torch.from_numpy(np.load(self.folder / "labels.npy"))
        found = []
        for name in self.corruptions:
            array = np.load(self.folder / f"{name}.npy")
            for severity in range(SEVERITIES):
                part = slice(severity * self.n, (severity + 1) * self.n)
                images, truth = array[part], labels[part]
                net, wrong = self.loaded(), 0.0
                for start in range(0, self.n, BATCH):
                    stop = min(start + BATCH, self.n)
                    views = [to_tensor(Image.fromarray(image)) for image in images[start:stop]]
                    logits = self.logits(net, torch.stack(views).to(self.device))
                    wrong += (logits.argmax(1).cpu() != truth[start:stop]).sum().item()
                found.append(wrong / self.n)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=200, help="of each set, next to no network")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    parser.add_argument("--turns", type=int, default=3, help="at least, of each way")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_evaluate.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device(options.device)
    table = Table("network", "way", "sets x images", "images/s", "quartiles", "time / one pass")
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        for network, build in NETWORKS.items():
            # On a CPU the network takes nearly all of the time, whatever the way.
            few = device.type == "cpu" and build is not Pooled
            corruptions = list(CORRUPTIONS[:1] if few else CORRUPTIONS)
            n = 40 if few else options.images
            folder = Path(name) / network.replace(" ", "_")
            folder.mkdir()
            write_sets(folder, n, corruptions)
            tests = Tests(folder, n, corruptions, build, device)
            turns = measured(tests, options.seconds, options.turns)
            sets = f"{SEVERITIES * len(corruptions)} x {n}"
            for way in WAYS:
                ratio, _, _ = turns.ratio(way, WAYS[0])
                table.add(network, way, sets, *rates(turns, way, tests.images), f"{ratio:.2f}")
    text = (
        f"# A test on corrupted sets, on {device.type}\n\n{table}\n\n"
        f"Batches of {BATCH}; medians over turns, quartiles of the rates, ratios of neighbouring "
        "turns. All ways find the same errors. CIFAR-10-C has 75 x 10,000 images, ImageNet-C 75 x "
        f"50,000. {'Clock' if device.type == 'cuda' else 'Processor'} time, one thread of "
        f"{machine()}. Made by `{command()}`.\n"
    )
    save(text, options.out)


def measured(tests: Tests, seconds: float, at_least: int) -> Turns:
    ways = dict(zip(WAYS, (tests.one_pass, tests.set_by_set, tests.as_published), strict=True))
    # Half precision decides otherwise between two classes that are nearly equal.
    with tests.exact(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = [way() for way in ways.values()]
    if not np.allclose(found, found[0], atol=0.02):
        raise RuntimeError(f"Expected all ways to find the same errors, but got {found}.")
    # The whole of a way counts, so also on a GPU the host's clock: its last result is read.
    seconds *= len(ways)
    clock = time.perf_counter if tests.device.type == "cuda" else time.process_time
    cpu = torch.device("cpu")
    return take_turns(ways, seconds=seconds, device=cpu, at_least=at_least, clock=clock)


if __name__ == "__main__":
    main()
