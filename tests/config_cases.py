"""How every YAML in configs/ is run on tiny generated data: with which others, made how small.

A case is a task's configuration, or one row of a table with its configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.tables.spec import Table
from tasks.tables.states import Places, Run
from tests.fakes import (
    reviews,
    write_cifar,
    write_domains,
    write_imagenet,
    write_imagenet_c,
    write_imdb,
    write_sst2,
)
from tests.segmentation_fakes import write_cityscapes, write_gta5

ROOT = Path(__file__).resolve().parents[1]
# Built for other programs, and tested in tests/tasks/dashboards/test_dashboards.py; methods are
# rows of tables in files of their own, and compared with them in tests/tasks/test_methods.py.
ELSEWHERE = ("dashboards", "methods", "sweeps")

CPU = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.max_epochs=null",
    "--trainer.max_steps=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--save_every=1",
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run some files.

    Args:
        task: whose command line runs it.
        files: below configs/, in order; the first may be a table, of which `row` runs.
        row: key of the table's row.
        data: options of :data:`DATA`, and what writes it.
        options: that make it smaller.
        slow: it takes several seconds.
    """

    task: str
    files: tuple[str, ...] = ()
    table: str = ""
    row: str = ""
    data: str
    options: tuple[str, ...] = ()
    slow: bool = False

    @property
    def name(self) -> str:
        return self.table or "+".join(file.removesuffix(".yaml") for file in self.files)

    def covers(self) -> set[str]:
        """The files below configs/ that it runs."""
        covered = {*self.files, *([self.table] if self.table else [])}
        if self.table:
            table = Table.load(ROOT / "configs" / self.table)
            row = next(row for row in table.rows if row.key == self.row)
            covered |= {f.removeprefix("configs/") for f in (*table.configs, *row.configs)}
        return covered

    def arguments(self, data: Path, folder: Path) -> list[str]:
        """Options of `fit` and `test`, with files relative to the repository."""
        places = Places(runs=folder / "runs", results=folder / "results")
        own: list[str] = []
        if self.table:
            table = Table.load(ROOT / "configs" / self.table)
            row = next(row for row in table.rows if row.key == self.row)
            own = Run(table=table, row=row, seed=0, places=places).arguments()
        else:
            own = [f"--config=configs/{file}" for file in self.files]
            own += [f"--runs={places.runs}", f"--results={places.results}"]
        made = [option.format(root=data) for option in DATA[self.data][1]]
        return [*own, *CPU, *made, *self.options]


def _nothing(root: Path) -> None:
    """Data that come with the suite."""


def _cifar(name: str) -> Callable[[Path], None]:
    return lambda root: void(write_cifar(root, name=name, n=20 if name == "cifar10" else 100))


def _imagenet(root: Path) -> None:
    write_imagenet(root, size=32)
    write_imagenet_c(root / "imagenet-c", size=32, corruptions=("fog",), severities=(1, 2))


def _texts(root: Path) -> None:
    write_imdb(root, reviews(6), pack=False)
    write_sst2(root, n=8, splits=("train", "dev", "test"))


DIGITS = ("mnist", "optdigits")


def _domains(root: Path) -> None:
    counts = {"a": 4, "b": 5}
    for names in (("amazon", "webcam"), ("photo", "art_painting"), ("plain", "dim"), DIGITS):
        write_domains(root / names[0], dict.fromkeys(names, counts))


def _segmentation(root: Path) -> None:
    write_gta5(root / "gta5", 10)
    write_cityscapes(root / "cityscapes", 2)


def void(_: object) -> None:
    """What is written is found again by its place."""


SMALL_BATCH = ["--data.batch_size=4", "--data.eval_batch_size=8"]
CLEAN = [*SMALL_BATCH, "--data.corruptions=[]"]
PAIR = [*SMALL_BATCH, "--data.resize=32", "--data.crop=24"]
SCENES = ["--data.root={root}", "--data.source_root=gta5", "--data.target_root=cityscapes"]
SCENES += ["--data.crop_size=17", "--data.batch_size=2", "--data.workers=0", "--model.pictures=1"]
# What writes each set below a folder, and the options that name it.
DATA: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "digits": (_nothing, ["--data.batch_size=64", "--data.corruptions=[contrast]"]),
    "few digits": (_nothing, ["--data.batch_size=8", "--data.corruptions=[contrast]"]),
    "cifar10": (_cifar("cifar10"), ["--data.root={root}", *CLEAN]),
    "cifar100": (_cifar("cifar100"), ["--data.root={root}", *CLEAN]),
    "imagenet": (
        _imagenet,
        [
            *("--data.root={root}", "--data.corrupted={root}/imagenet-c", *SMALL_BATCH),
            *("--data.image_size=32", "--data.workers=0", "--data.corruptions=[fog]"),
            "--data.severities=[1,2]",
        ],
    ),
    "texts": (
        _texts,
        [
            *("--data.imdb={root}", "--data.sst2={root}/SST-2", "--data.min_count=1"),
            *("--model.network.init_args.dimension=8", *SMALL_BATCH),
        ],
    ),
    "amazon": (_domains, ["--data.root={root}/amazon", *PAIR]),
    "photo": (_domains, ["--data.root={root}/photo", *PAIR]),
    "plain": (_domains, ["--data.root={root}/plain", *PAIR]),
    "mnist": (_domains, ["--data.root={root}/mnist", *PAIR]),
    "scenes": (_segmentation, SCENES),
}
TINY = ("--model.network.init_args.depth=10", "--model.network.init_args.width=1")
LIGHT = ("--model.network.init_args.width=4",)
FREE = ("--model.weights=null",)
SMALL_NET = "nets/wide_resnet_16_2_short.yaml"

CASES = (
    # The paper's tables, with the networks as they are.
    Case(task="classification", table="paper/cifar10c.yaml", row="AllConv/CNSN+AugMix",
         data="cifar10", slow=True),
    Case(task="classification", table="paper/cifar100c.yaml", row="DenseNet-40/Mixup",
         data="cifar100", options=("--model.network.init_args.depth=10",)),
    Case(task="classification", table="paper/imagenetc.yaml",
         row="ResNet-50-IBN-b/CNSN+IBN+AugMix", data="imagenet", slow=True),
    Case(task="fixmatch", table="paper/fixmatch.yaml", row="WideResNet-28-2/250/FixMatch+CN",
         data="cifar10", options=("--data.labels=10", "--data.steps_per_epoch=2", *TINY)),
    Case(task="segmentation", table="paper/gta5.yaml", row="FCN-ResNet-50/CNSN", data="scenes",
         options=FREE, slow=True),
    Case(task="text", table="paper/sst2.yaml", row="TextCNN/CNSN", data="texts"),
    Case(task="adaptation", table="paper/office31.yaml",
         row="ResNet-50/amazon_to_webcam/CN_target_style", data="amazon", options=FREE, slow=True),
    # Ours.
    Case(task="classification", table="studies/quickstart.yaml", row="WideResNet-10-1/CNSN",
         data="digits"),
    Case(task="classification", table="studies/cifar10_subset.yaml",
         row="WideResNet-16-2/CNSN+consistency", data="cifar10"),
    Case(task="classification", table="studies/cifar10_jpegq75.yaml",
         row="WideResNet-16-2/CNSN", data="cifar10"),
    Case(task="classification", table="studies/image_folder.yaml", row="NarrowResNet-10/CNSN",
         data="imagenet", options=("--model.attack.steps=1",)),
    Case(task="fixmatch", table="studies/fixmatch_digits.yaml", row="WideResNet-10-1/FixMatch+CN",
         data="few digits", options=("--data.steps_per_epoch=2",)),
    Case(task="fixmatch", table="studies/fixmatch_cifar10_subset.yaml",
         row="WideResNet-10-1/supervised_only", data="cifar10",
         options=("--data.labels=10", "--data.steps_per_epoch=2")),
    Case(task="segmentation", table="studies/camvid.yaml", row="SmallFPN/CNSN", data="scenes",
         options=LIGHT),
    Case(task="segmentation", table="studies/camvid_pretrained.yaml", row="ThinResNetFPN/CNSN",
         data="scenes", options=(*FREE, "--data.crop_size=33")),
    Case(task="segmentation", table="studies/scenes.yaml", row="SmallFPN/CNSN", data="scenes",
         options=LIGHT),
    Case(task="text", table="studies/imdb_sst2.yaml", row="TextCNN_3x50/CN", data="texts"),
    Case(task="text", table="studies/imdb_vectors.yaml", row="TextCNN_3x100/fine-tuned/CNSN",
         data="texts", options=("--data.held_out=0.5", "--data.sst2_splits=[dev]")),
    Case(task="adaptation", table="studies/pacs_subset.yaml",
         row="NarrowResNet-10/photo_to_art_painting/SN", data="photo", options=LIGHT),
    Case(task="adaptation", table="studies/pacs_pretrained.yaml",
         row="ThinResNet-50/photo_to_art_painting/CNSN", data="photo", options=FREE),
    Case(task="adaptation", table="studies/domains.yaml",
         row="NarrowResNet-10/plain_to_dim/DANN+CNSN", data="plain", options=LIGHT),
    Case(task="adaptation", table="studies/digit_domains.yaml",
         row="WideResNet-10-1/mnist_to_optdigits/CN_in_stages_1-2", data="mnist"),
    # What no table's chosen row has.
    Case(task="classification", files=("cifar10.yaml", "nets/wide_resnet.yaml"), data="cifar10",
         slow=True),
    Case(task="classification", files=("cifar100.yaml", "nets/resnext.yaml"), data="cifar100",
         slow=True),
    Case(task="classification", files=("cifar10.yaml", SMALL_NET, "augment/cutout.yaml",
         "augment/autoaugment.yaml"), data="cifar10", options=TINY),
    Case(task="classification", files=("cifar10.yaml", SMALL_NET, "augment/cutmix.yaml"),
         data="cifar10", options=TINY),
    Case(task="classification", files=("cifar10.yaml", SMALL_NET, "augment/adversarial.yaml"),
         data="cifar10", options=TINY),
    Case(task="classification", files=("imagenet.yaml", "nets/resnet50.yaml",
         "imagenet_8gpu.yaml"), data="imagenet", slow=True,
         options=("--model.optimizer.lr=0.001",)),  # 0.4 is that of 1,024 images
    Case(task="text", files=("sst2.yaml", "text_resnet.yaml"), data="texts"),
    Case(task="classification", files=("digits.yaml", "logging/wandb.yaml"), data="digits"),
    Case(task="classification", files=("digits.yaml", "rivals/padain.yaml"), data="digits"),
    *(Case(task="classification", files=("digits.yaml", f"rivals/{name}.yaml"), data="digits",
           slow=True) for name in ("mixstyle", "efdmix", "dsu", "np", "np_plus")),
    Case(task="adaptation", files=("pacs.yaml", "rivals/dsu_resnet.yaml"), data="photo",
         options=("--data.source=photo", "--data.target=art_painting", *LIGHT), slow=True),
)  # fmt: skip
