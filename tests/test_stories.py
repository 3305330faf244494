"""What a user adds, and how little it takes: each is tried on a copy of the tree, in a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

TREE = ("cnsn", "data", "tasks", "configs")
SHORT = (
    "--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
)  # fmt: skip


class Tree:
    """A copy, the files that are written and changed there, and processes that see it alone."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = folder / "tree"
        skip = shutil.ignore_patterns("__pycache__")
        for name in TREE:
            shutil.copytree(root / name, self.root / name, ignore=skip)
        shutil.copy(root / "reproduce.py", self.root)

    def write(self, files: dict[str, str]) -> None:
        """New files, by their paths."""
        for name, text in files.items():
            path = self.root / name
            assert not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))

    def change(self, file: str, old: str, new: str) -> None:
        """What a person would do by hand in a file that is there."""
        text = (self.root / file).read_text()
        assert text.count(old) == 1, f"Expected {old!r} once in {file}: say here where it is now"
        (self.root / file).write_text(text.replace(old, new))

    def run(self, *arguments: str) -> str:
        """What Python prints."""
        places = os.pathsep.join([str(self.root), str(self.root / "lib")])
        environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=environment, text=True,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def steps(self, task: str) -> int:
        """Optimiser steps of the only run of a task."""
        (record,) = (self.root / "runs" / task).rglob("finished.json")
        return int(json.loads(record.read_text())["steps"])


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Tree:
    return Tree(root, tmp_path)


TRAIN_A_STEP = """
    import torch
    from cnsn import CNSNSpec, crossnorm_active, crossnorm_sites, insert

    def train_a_step(net, spec):
        net = insert(net, spec).train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        before = [p.detach().clone() for p in net.parameters()]
        with crossnorm_active(net) as (site,):
            net(torch.randn(4, 3, 16, 16)).square().mean().backward()
        optimizer.step()
        assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters()))
        assert all(p.isfinite().all() for p in net.parameters())
        return site
"""


def test_a_new_statistics_layer_is_one_file_and_one_row(tree: Tree) -> None:
    tree.write(
        {
            "cnsn/layers/blend.py": '''
        """Statistics between a map's own and a partner's."""

        import torch

        from cnsn.functional import instance_stats
        from cnsn.layers.base import Restyling


        class Blend(Restyling):
            def restyle(self, x, mask):
                mean, std = instance_stats(x, mask=mask)
                partner = self.draw_partners(len(x))
                share = torch.rand(len(x), *[1] * (x.ndim - 1), generator=self.generator)
                mixed_mean, mixed_std = (
                    share * own + (1 - share) * own[partner] for own in (mean, std)
                )
                return (x - mean) / std * mixed_std + mixed_mean
        ''',
            "check.py": TRAIN_A_STEP
            + """
    from cnsn.nets import WideResNet

    site = train_a_step(WideResNet(depth=10, width=1), CNSNSpec(kind="cn", restyle="blend"))
    print(type(site).__name__)
    """,
        }
    )
    tree.change(
        "cnsn/kinds.py",
        "RESTYLINGS: dict[str, Insertable[Restyling]] = {\n",
        "from cnsn.layers.blend import Blend  # isort: skip\n"
        "RESTYLINGS: dict[str, Insertable[Restyling]] = {\n"
        '    "blend": Insertable(Blend),\n',
    )
    assert tree.run("check.py") == "Blend\n"


def test_a_new_family_of_blocks_is_one_file(tree: Tree) -> None:
    tree.write(
        {
            "lib/blocklib.py": """
        from torch import nn


        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv = nn.Conv2d(channels, channels, 3, padding=1)

            def forward(self, x):
                return (x + self.conv(x)).relu()


        class Net(nn.Sequential):
            def __init__(self):
                blocks = nn.Sequential(Block(8), Block(8))
                super().__init__(nn.Conv2d(3, 8, 1), blocks, nn.AdaptiveAvgPool2d(1))
        """,
            "cnsn/backbones/blocklib.py": '''
        """Blocks of blocklib."""

        import blocklib

        from cnsn.backbones import register_block
        from cnsn.sites import SitedBlock


        class SitedBlocklibBlock(SitedBlock, blocklib.Block):
            SITES = ("residual", "post")

            def site_channels(self):
                return dict.fromkeys(self.SITES, self.conv.out_channels)

            def forward(self, x):
                total = x + self.at("residual", self.conv(x))
                return self.at("post", total).relu()


        register_block(blocklib.Block, SitedBlocklibBlock)
        ''',
            "check.py": TRAIN_A_STEP
            + """
    import sys, torchvision

    insert(torchvision.models.resnet18(), CNSNSpec(kind="cnsn"))
    assert "blocklib" not in sys.modules  # Nobody needs it who has no network of its.
    import blocklib

    net = blocklib.Net()
    train_a_step(net, CNSNSpec(kind="cnsn", position="residual"))
    print(len(crossnorm_sites(net)), *[key for key in net.state_dict() if "g_fc" in key])
    """,
        }
    )
    expected = [f"1.{block}.cnsn.selfnorm.g_fc.weight" for block in (0, 1)]
    assert tree.run("check.py").split() == ["2", *expected]


def test_a_sixth_task_is_two_folders_and_its_configs(tree: Tree) -> None:
    tree.write(
        {
            "data/sixth/__init__.py": "from data.sixth.module import Shades",
            "data/sixth/module.py": '''
        """Images of one brightness each, which is to be found."""

        import torch

        from data.images import ImageTensor, fingerprint, normalise
        from data.loading import ResumableDataModule, TrainLoader, evaluation_loader


        class Shades(ResumableDataModule):
            def __init__(self, *, batch_size: int = 8, workers: int = 0, seed: int = 0) -> None:
                super().__init__()
                self.batch_size, self.workers, self.seed = batch_size, workers, seed

            def setup(self, stage):
                labels = torch.arange(32) * 8
                images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
                self.images = ImageTensor(images, labels)

            def train_dataloader(self):
                loader = TrainLoader(
                    self.images, batch_size=self.batch_size, seed=self.seed, workers=self.workers
                )
                return self.resumable(loader)

            def val_dataloader(self):
                return evaluation_loader(self.images, batch_size=self.batch_size)

            test_dataloader = val_dataloader

            def on_after_batch_transfer(self, batch, dataloader_idx):
                half = (0.5, 0.5, 0.5)
                return {**batch, "image": normalise(batch["image"], half, half)}

            def describe(self):
                images = fingerprint(self.images.images.numpy())
                return {"dataset": "shades", "fingerprint": images, "n_train": 32, "n_test": 32}
        ''',
            "tasks/sixth/__init__.py": "from tasks.sixth.module import TASK, main",
            "tasks/sixth/__main__.py": """
        from tasks.sixth import main

        if __name__ == "__main__":
            main()
        """,
            "tasks/sixth/module.py": '''
        """How bright an image is."""

        from torch import nn

        from cnsn import CNSNSpec
        from data.sixth import Shades
        from tasks.engine.base import CNSNModule, CrossNormTraining
        from tasks.engine.optim import OptimizerSpec


        class Brightness(CNSNModule):
            DATA = Shades
            MONITOR = None

            def __init__(
                self,
                network: nn.Module,
                cnsn: CNSNSpec = CNSNSpec(),
                crossnorm: CrossNormTraining = CrossNormTraining(),
                optimizer: OptimizerSpec = OptimizerSpec(),
                *,
                seed: int = 0,
            ) -> None:
                super().__init__(network, cnsn, crossnorm, optimizer, seed=seed)

            def _distance(self, batch):
                return (self(batch["image"])[:, 0] - batch["label"] / 255).abs().mean()

            def training_step(self, batch, batch_idx):
                with self.crossnorm_view(batch["number"]):
                    loss = self._distance(batch)
                self.log_losses(loss=loss)
                return loss

            def test_step(self, batch, batch_idx):
                self.log("test/distance", self._distance(batch))

            def on_test_epoch_end(self):
                distance = self.trainer.callback_metrics["test/distance"]
                self.metrics = {"summary": {"distance": float(distance)}}


        TASK = Brightness


        def main(args=None):
            from tasks.engine.cli import run

            run(TASK, "sixth", args)
        ''',
            "configs/sixth.yaml": """
        data:
          class_path: data.sixth.Shades
        model:
          network:
            class_path: cnsn.nets.WideResNet
            init_args: {depth: 10, width: 1, num_classes: 1}
          cnsn: {kind: cnsn}
        trainer:
          max_epochs: 1
        """,
        }
    )
    tree.run("-m", "tasks.sixth", "fit", "--config=configs/sixth.yaml", *SHORT)
    assert tree.steps("sixth") == 1


def test_a_new_data_set_of_arrays_is_25_lines_and_its_entry(tree: Tree) -> None:
    files = {
        "data/classification/stripes.py": '''
        """Stripes, upright or level."""

        import numpy as np

        from data.classification.module import ImageClassificationData


        class Stripes(ImageClassificationData):
            """Our own."""

            title, num_classes = "stripes", 2

            def read(self):
                upright = np.zeros((32, 16, 16, 3), np.uint8)
                upright[:, :, ::2] = 255
                images = np.concatenate([upright, upright.transpose(0, 2, 1, 3)])
                labels = np.repeat(np.arange(2), 32)
                return (images, labels), (images[::8], labels[::8])
        ''',
        "configs/stripes.yaml": """
        data:
          class_path: data.classification.Stripes
          init_args: {batch_size: 16, eval_batch_size: 8, workers: 0, padding: 2, flip: true,
            jitter: 0.0, corruptions: []}
        """,
    }
    assert sum(len(text.strip().splitlines()) for text in files.values()) <= 25
    tree.write(files)
    tree.change(
        "data/classification/__init__.py",
        "from data.classification.digits import Digits\n",
        "from data.classification.digits import Digits\n"
        "from data.classification.stripes import Stripes\n",
    )
    configs = ("--config=configs/digits.yaml", "--config=configs/stripes.yaml")
    tree.run("-m", "tasks.classification", "fit", *configs, *SHORT)
    assert tree.steps("classification") == 1


def test_a_new_results_column_is_two_files(tree: Tree, root: Path) -> None:
    """The summary of a test, and the table that shows it."""
    tree.change(
        "tasks/engine/conditions.py",
        'return {"summary": summary,',
        'summary["worst"] = max(values["error"])\n    return {"summary": summary,',
    )
    tree.change(
        "configs/studies/quickstart.yaml",
        "samples: 1200\n",
        "samples: 1200\ncolumns: {mce: mean corruption error, worst: worst error}\nmetric: mce\n",
    )
    lines = [json.loads(line) for line in (root / "results/classification.jsonl").open()]
    lines = [line for line in lines if line["name"].startswith("quickstart/")]
    (tree.root / "lines.json").write_text(json.dumps(lines))
    # As tests of these runs would write them now.
    tree.write(
        {
            "check.py": """
        import json, pathlib, sys
        from data.classification import Digits
        from tasks.engine.conditions import summarise
        import reproduce

        out = pathlib.Path("results/classification.jsonl")
        out.parent.mkdir()
        with out.open("w") as file:
            for line in json.loads(pathlib.Path("lines.json").read_text()):
                found = line["conditions"]
                values = {name: [c[name] for c in found] for name in ("error", "ece", "n")}
                places = [(c["corruption"], c["severity"]) for c in found]
                line |= summarise(values, places, complete=Digits.COMPLETE)
                file.write(json.dumps(line) + "\\n")
        sys.exit(reproduce.main(["quickstart", "--print"]))
        """
        }
    )
    worst = [
        100 * max(condition["error"] for condition in line["conditions"])
        for line in lines
        if line["name"] == "quickstart/WideResNet-10-1/CN"
    ]
    printed = tree.run("check.py")
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    row = next(line for line in rows if "| CN |" in line)  # of the first table
    assert "| worst error |" in rows[0] and f"{sum(worst) / len(worst):.1f} ±" in row
