"""Pictures of finished adaptation runs: t-SNE of the features, confusion matrix, worst mistakes.

    python -m tasks.adaptation.embeddings --before runs/adaptation/source/seed0-... \\
        --after runs/adaptation/adapted/seed0-... --out pictures

Both are run directories of the same two domains. t-SNE: van der Maaten & Hinton 2008, as in
scikit-learn; each network's features are laid out by themselves, so that only what lies together
means something, not where.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from cnsn.checkpoint import read_state_dict
from data.domains.module import DomainPair, labels_of
from data.randomness import generator_for
from tasks.adaptation.adversary import captured_features
from tasks.adaptation.figures import Panel, confusion_figure, mistakes_figure, tsne_figure
from tasks.engine.parser import instantiate

__all__ = ["Embedding", "TrainedRun", "lay_out", "main"]


class Embedding(NamedTuple):
    """What a network makes of a domain: features (N, F) and probabilities (N, classes)."""

    features: Tensor
    probabilities: Tensor


class TrainedRun:
    """The network and the data of a run directory.

    Args:
        directory: ``runs/adaptation/<name>/seed<k>-<hash>``.

    Raises:
        ValueError: it is no such directory, or has no checkpoint yet.
    """

    def __init__(self, directory: Path) -> None:
        checkpoint = directory / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file() or not (directory / "config.yaml").is_file():
            raise ValueError(
                f"Expected {directory} to be a run directory with config.yaml and "
                "checkpoints/last.ckpt: run `python -m tasks.adaptation fit` first."
            )
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        self.name = str(config["name"]).rpartition("/")[2].replace("_", " ")
        task = importlib.import_module("tasks.adaptation").TASK
        self.module, data = instantiate(task, config)
        self.data: DomainPair = data
        self.module.load_state_dict(read_state_dict(checkpoint), strict=True)
        self.module.eval()
        self.data.setup("test")

    @torch.no_grad()
    def embed(self, images: Tensor) -> Embedding:
        """Of uint8 images (N, 3, H, W), by the normalisation that is in force."""
        logits = []
        with captured_features(self.module.classifier) as features:
            for part in images.split(self.data.eval_batch_size):
                logits.append(self.module(self.data.test_view(part)))
        return Embedding(torch.cat(features), torch.softmax(torch.cat(logits), -1))

    def embed_both(self) -> tuple[Embedding, Embedding]:
        """Of source and target, each normalised as in the test."""
        source, target = self.data.images
        own = self.embed(source)
        with self.module.target_view(self.data):
            return own, self.embed(target)


def lay_out(features: Tensor, *, seed: int = 0) -> np.ndarray:
    """Points (N, 2) of features (N, F)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = features.float().numpy()
    # Fewer dimensions first: the usual remedy for noise in distances of many.
    x = PCA(min(50, *x.shape), random_state=seed).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)


def _panel(run: TrainedRun, title: str, both: tuple[Embedding, Embedding], limit: int) -> Panel:
    labels = [labels_of(files) for files in run.data.files]
    chosen = [
        torch.randperm(len(own), generator=generator_for(0, "pictured"))[:limit] for own in labels
    ]
    parts = zip(both, chosen, strict=True)
    points = lay_out(torch.cat([embedding.features[i] for embedding, i in parts]))
    is_target = np.arange(len(points)) >= len(chosen[0])
    shown = torch.cat([own[i] for own, i in zip(labels, chosen, strict=True)])
    return Panel(f"{title}, {run.name}", points, is_target, shown.numpy())


def draw(before: Path, after: Path, out: Path, limit: int) -> list[Path]:
    """Write the three figures and return their files."""
    runs = [TrainedRun(before), TrainedRun(after)]
    first, last = (run.data for run in runs)
    if (first.source, first.target, first.classes) != (last.source, last.target, last.classes):
        raise ValueError(
            f"Expected two runs of the same domains, but got {first.source} -> {first.target} and "
            f"{last.source} -> {last.target}."
        )
    both = [run.embed_both() for run in runs]
    panels = [
        _panel(run, title, embeddings, limit)
        for run, title, embeddings in zip(runs, ("before", "after"), both, strict=True)
    ]
    classes, labels = last.classes, labels_of(last.files[1])
    probabilities = both[1][1].probabilities
    counts = torch.zeros(len(classes), len(classes))
    counts.index_put_((labels, probabilities.argmax(1)), torch.ones(len(labels)), accumulate=True)
    title = f"{last.source} to {last.target}, {runs[1].name}"
    return [
        tsne_figure(panels, classes, (last.source, last.target), out / "tsne.png"),
        confusion_figure(counts.numpy(), classes, title, out / "confusion.png"),
        mistakes_figure(
            last.images[1].permute(0, 2, 3, 1).numpy(),
            labels.numpy(),
            probabilities.numpy(),
            classes,
            title,
            out / "mistakes.png",
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.adaptation.embeddings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--before", type=Path, required=True, help="run directory to compare with")
    parser.add_argument("--after", type=Path, required=True, help="run directory to show")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--images", type=int, default=1000, help="of each domain, at most (1000)")
    options = parser.parse_args(arguments)
    try:
        if options.images < 2:
            raise ValueError(f"Expected `--images` to be at least 2, but got {options.images}.")
        for path in draw(options.before, options.after, options.out, options.images):
            print(path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
