"""Every task on small generated or bundled data, in the variants whose steps differ."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningDataModule

from cnsn import CNSNSpec
from cnsn.nets import NarrowResNet, TextCNN, wide_resnet
from data import augmentations, classification, domains, fixmatch, segmentation
from data.generated import domains as generated_domains
from data.generated.scenes import SOURCE, TARGET, write_scenes
from tasks.adaptation.adversary import AdversarySpec
from tasks.adaptation.module import Adaptation
from tasks.classification.attacks import AttackSpec
from tasks.classification.module import Classification
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.fixmatch.module import FixMatch
from tasks.segmentation.module import Segmentation
from tasks.segmentation.networks import SmallFPN

__all__ = ["Case", "cases"]

Case = Callable[[], tuple[CNSNModule, LightningDataModule]]

CNSN = CNSNSpec(kind="cnsn")
CROPPED = CNSNSpec(kind="cnsn", crop="both")
ALWAYS = CrossNormTraining(p=1.0, k=1)
CONSISTENT = CrossNormTraining(p=1.0, k=1, consistency=10.0)


def cases(root: Path) -> dict[str, Case]:
    """Name: what makes module and data; small data sets are written below `root`."""
    write_scenes(root / "scenes", source=8, target=1, width=64, height=48, seed=0)
    generated_domains.make(Namespace(root=root / "domains", images=4, size=32, seed=0))
    write_texts(root / "texts")
    found: dict[str, Case] = {
        "classification": _classification,
        "classification, CNSN": partial(_classification, CNSN),
        "classification, CNSN with crops": partial(_classification, CROPPED),
        "classification, CNSN and consistency": partial(_classification, CNSN, CONSISTENT),
        "classification, data on the device": partial(_classification, CNSN, resident=True),
        "classification, colours and adversarial": partial(
            _classification, jitter=0.4, adversarial=AttackSpec(steps=2)
        ),
    }
    for name in ("AugMix", "AutoAugment", "Cutout", "Mixup", "CutMix"):
        found[f"classification, {name}"] = partial(_classification, augment=[name])
    for ratio, kind, resident in ((3, "none", False), (3, "cnsn", True), (0, "none", False)):
        name = f"fixmatch, {kind}, {ratio} unlabelled images a labelled one"
        found[name] = partial(_fixmatch, kind, ratio, resident)
    for spec in (CNSNSpec(), CNSN):
        found[f"segmentation, {spec.kind}"] = partial(_segmentation, root / "scenes", spec)
    for norm, style, weight in (
        ("source", "source", 0.0),
        ("source", "target", 1.0),
        ("mixed", "target", 0.0),
        ("per_domain", "source", 0.0),
    ):
        name = f"adaptation, {norm}, style of the {style}, adversary {weight:g}"
        found[name] = partial(_adaptation, root / "domains", norm, style, weight)
    for crop in ("neither", "style", "both"):
        found[f"text, crop {crop}"] = partial(_text, root / "texts", crop)
    return found


def _classification(
    spec: CNSNSpec = CNSNSpec(),
    crossnorm: CrossNormTraining = ALWAYS,
    *,
    augment: Sequence[str] = (),
    jitter: float = 0.0,
    resident: bool = False,
    adversarial: AttackSpec | None = None,
) -> tuple[CNSNModule, LightningDataModule]:
    network = wide_resnet(depth=10, width=1)
    steps = [getattr(augmentations, name)() for name in augment]
    data = classification.Digits(flip=True, jitter=jitter, augment=steps, resident=resident)
    return Classification(network, spec, crossnorm, adversarial=adversarial), data


def _fixmatch(kind: Any, ratio: int, resident: bool) -> tuple[CNSNModule, LightningDataModule]:
    data = fixmatch.Digits(
        labels=40, batch_size=8, unlabelled_ratio=ratio, steps_per_epoch=50, resident=resident
    )
    network = wide_resnet(depth=10, width=1)
    return FixMatch(network, CNSNSpec(kind=kind), ALWAYS), data


def _segmentation(root: Path, spec: CNSNSpec) -> tuple[CNSNModule, LightningDataModule]:
    data = segmentation.SourceAndTarget(
        source_root=str(root / SOURCE),
        target_root=str(root / TARGET),
        batch_size=2,
        crop_size=32,
        workers=0,
    )
    return Segmentation(SmallFPN(width=4, blocks=1), spec, ALWAYS, pictures=0), data


def _adaptation(
    root: Path, norm: Any, style: Any, weight: float
) -> tuple[CNSNModule, LightningDataModule]:
    first, second = generated_domains.DOMAINS[:2]
    data = domains.DomainPair(
        str(root), source=first, target=second, batch_size=4, resize=32, crop=24, min_area=0.5
    )
    task = Adaptation(
        NarrowResNet(width=4, blocks=(1, 1), num_classes=data.num_classes),
        CNSN,
        ALWAYS,
        style=style,
        batch_norm=norm,
        adversary=AdversarySpec(weight=weight, hidden=8),
    )
    return task, data


def _text(root: Path, crop: Any) -> tuple[CNSNModule, LightningDataModule]:
    # All other cases do without torchtext.
    from data.text.module import IMDbToSST2
    from tasks.text.module import Text

    data = IMDbToSST2(str(root), str(root / "SST-2"), min_count=1, batch_size=8, eval_batch_size=16)
    network = TextCNN(vocabulary_size=data.vocabulary_size, dimension=8, filters=4)
    return Text(network, CNSNSpec(kind="cnsn", position="conv", crop=crop), ALWAYS), data


def write_texts(root: Path, n: int = 40) -> None:
    """Texts of random words in the layouts of IMDb and SST-2."""
    draw = random.Random(0)
    words = [f"w{''.join(draw.choices('abcdefgh', k=4))}" for _ in range(60)]
    for part in ("train", "test"):
        for kind, stars in (("neg", 2), ("pos", 9)):
            folder = root / "aclImdb" / part / kind
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(n):
                text = " ".join(draw.choices(words, k=draw.randint(5, 40)))
                (folder / f"{number}_{stars}.txt").write_text(text)
    (root / "SST-2").mkdir(exist_ok=True)
    for split in ("train", "dev"):
        lines = [f"{' '.join(draw.choices(words, k=8))}\t{number % 2}" for number in range(n)]
        (root / "SST-2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
