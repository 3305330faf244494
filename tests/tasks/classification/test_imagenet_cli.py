"""The classification task on small image folders in ImageNet's and ImageNet-C's layouts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet50_Weights, resnet50

from cnsn import CNSNSpec, insert
from cnsn.nets import wide_resnet
from data.corruptions.recipes import CORRUPTIONS
from data.errors import NO_DATA
from data.imagenet import module as imagenet
from data.imagenet.layout import ALEXNET_ERRORS
from tasks.classification.module import Classification, main
from tasks.engine.cli import expected_recipe
from tasks.engine.results import read_results
from tasks.tables.spec import Table
from tests.command_line import Interruption, interrupt, refusal
from tests.conftest import ROOT
from tests.fakes import CLASS_NAMES, TWO_CORRUPTIONS, write_imagenet, write_imagenet_c

SIZE = 24


pytestmark = pytest.mark.usefixtures("in_the_repository")


def command(folder: Path, *more: str) -> list[str]:
    return [
        "--config=configs/imagenet.yaml",
        "--model.network.class_path=cnsn.nets.WideResNet",
        "--model.network.init_args.depth=10",
        "--model.network.init_args.width=1",
        "--model.cnsn.kind=cnsn",
        "--model.cnsn.image=true",
        f"--data.root={folder / 'imagenet'}",
        f"--data.image_size={SIZE}",
        "--data.batch_size=8",
        "--data.workers=0",
        "--trainer.max_epochs=null",
        "--trainer.max_steps=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--runs={folder / 'runs'}",
        f"--results={folder / 'results'}",
        *more,
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small sets and a run on them."""
    folder = tmp_path_factory.mktemp("run")
    write_imagenet(folder / "imagenet", size=SIZE)
    write_imagenet_c(folder / "ImageNet-C", size=SIZE, corruptions=CORRUPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["pytest"])
        main(["fit", *command(folder)])
    return folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    unwanted = shutil.ignore_patterns("runs", "results")
    return Path(shutil.copytree(trained, tmp_path / "own", ignore=unwanted))


def record(folder: Path, *more: str) -> dict[str, Any]:
    main(["test", *command(folder, *more)])
    return list(read_results(folder / "results" / "classification.jsonl"))[-1]


def test_errors_equal_those_by_torchvisions_own_loaders(trained: Path) -> None:
    found = record(trained, "--data.corruptions=[gaussian_noise,fog]")
    assert found["dataset"] == "imagenet-subset (3 classes, 24+12 images)"
    assert found["corruptions"] == list(TWO_CORRUPTIONS) and len(found["conditions"]) == 11
    assert "partial_mce" in found["summary"] and "mce" not in found["summary"]

    (checkpoint,) = (trained / "runs").rglob("last.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    net = insert(
        wide_resnet(depth=10, width=1, num_classes=3), CNSNSpec(kind="cnsn", image=True)
    ).eval()
    net.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    tail = [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    middle = [transforms.Resize(27), transforms.CenterCrop(SIZE)]
    for condition in found["conditions"]:
        path, head = trained / "imagenet" / "val", middle
        if condition["severity"]:
            path = trained / "ImageNet-C" / condition["corruption"] / str(condition["severity"])
            head = []
        folder = ImageFolder(path, transforms.Compose([*head, *tail]))
        with torch.no_grad():
            logits = net(torch.stack([image for image, _ in folder]))
        error = (logits.argmax(1) != torch.tensor(folder.targets)).float().mean()
        assert condition["error"] == pytest.approx(error.item(), abs=1e-6)


def test_all_conditions_give_both_means(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    found = record(trained)
    assert len(found["conditions"]) == 76
    means = {
        name: sum(c["error"] for c in found["conditions"] if c["corruption"] == name) / 5
        for name in CORRUPTIONS
    }
    summary = found["summary"]
    assert summary["mce"] == pytest.approx(sum(means.values()) / 15)
    normalised = [means[name] / ALEXNET_ERRORS[name] for name in CORRUPTIONS]
    assert summary["mce_alexnet"] == pytest.approx(sum(normalised) / 15)


def test_a_partial_test_is_marked(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = record(trained, "--data.severities=[1,2]")
    assert found["summary"].keys() == {"error", "ece", "partial_mce", "partial_corrupted_ece"}
    assert "partial means, not the set's mCE" in capsys.readouterr().out


def test_adabn_and_attacks_stand_beside_the_plain_test(trained: Path) -> None:
    found = record(
        trained,
        "--data.corruptions=[fog]",
        "--model.adabn=true",
        "--model.attacks=[fgsm,pgd]",
        "--model.attack.eps=4",
        "--model.attack.steps=2",
    )
    names = {"error", "ece", "partial_mce", "partial_corrupted_ece", "fgsm_error", "fgsm_ece"}
    names |= {"pgd_error", "pgd_ece"}
    adabn = {"adabn_error", "adabn_ece", "adabn_partial_mce", "adabn_partial_corrupted_ece"}
    assert found["summary"].keys() == names | adabn
    assert all(0 <= c["adabn_error"] <= 1 for c in found["conditions"])
    assert found["attacks"][1]["steps"] == 2 and found["attacks"][0]["n"] == 12
    plain = record(trained, "--data.corruptions=[fog]")
    assert plain["config_hash"] == found["config_hash"]
    assert plain["summary"].items() <= found["summary"].items()


def test_a_run_stopped_in_mid_epoch_ends_bit_identical(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where workers decode and crop, and where their number changes."""
    options = ["fit", *command(trained, "--trainer.max_steps=5", "--save_every=1")]
    main([*options, f"--runs={tmp_path / 'whole'}"])
    options += [f"--runs={tmp_path / 'parts'}", "--data.workers=2"]
    interrupt(monkeypatch, Classification, 2)
    with pytest.raises(Interruption):
        main(options)
    main(options)
    one, two = (
        torch.load(path, weights_only=True)
        for part in ("whole", "parts")
        for path in (tmp_path / part).rglob("last.ckpt")
    )
    assert one["global_step"] == two["global_step"] == 5
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def test_published_weights_are_tested_without_a_run_or_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousand classes, and torchvision's file where a download would put it."""
    torch.manual_seed(1)
    net = resnet50()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1040, 3, 3, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    tail = [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    look = transforms.Compose([transforms.Resize(9), transforms.CenterCrop(8), *tail])
    files = []
    for number, array in enumerate(pixels, start=1):
        files.append(tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG")
        Image.fromarray(array).save(files[-1], quality=95)
    images = torch.stack([look(Image.open(file)) for file in files])
    with torch.no_grad():
        net.fc.weight *= 20
        net(images[:500])  # in training mode: its statistics are then those of the images
        predicted = net.eval()(images).argmax(1)
    # Most images lie in any class, the last 40 in the one that the network sees.
    labels = torch.cat([torch.arange(1000), predicted[1000:]])
    for file, label in zip(files, labels.tolist(), strict=True):
        folder = tmp_path / "imagenet" / "val" / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    error = (predicted != labels).float().mean().item()
    assert error < 0.97 and predicted.unique().numel() > 20

    weight = ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(net.state_dict(), tmp_path / "hub" / "checkpoints" / Path(weight.url).name)
    options = command(tmp_path, "--data.image_size=8", "--data.corruptions=[]")
    plain = [o for o in options if "model.network" not in o and "cnsn" not in o]
    plain = ["--config=configs/imagenet.yaml", "--config=configs/nets/resnet50.yaml", *plain[1:]]
    plain.append("--model.weights=ResNet50_Weights.IMAGENET1K_V1")
    main(["test", *plain])
    (found,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert found["summary"]["error"] == pytest.approx(error, abs=1e-6)
    assert found["selection"] == "pretrained weights"
    assert found["checkpoint"] == "ResNet50_Weights.IMAGENET1K_V1" and "sha256" not in found
    assert found["dataset"] == "imagenet-subset (1000 classes, 0+1040 images)"
    assert not list(tmp_path.rglob("*.ckpt"))
    # What is inserted has learnt nothing, and training needs the training images.
    for kind in ("cn", "sn"):
        with pytest.raises(SystemExit, match=r"^error: Expected a trained run"):
            main(["test", *plain, f"--model.cnsn.kind={kind}"])
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *plain])
    assert stopped.value.code == NO_DATA and "imagenet/train" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_ends_with_one_sentence(
    own: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    image = sorted((own / "imagenet" / "train" / CLASS_NAMES[1]).iterdir())[0]
    image.write_bytes(image.read_bytes()[:-50])
    options = [f"--data.workers={workers}", "--trainer.max_steps=3"]
    message = refusal(main, ["fit", *command(own, *options)], capsys)
    assert message.startswith("error: Expected ") and image.name in message
    assert "--data.verify true" in message and message.count("\n") <= 1
    message = refusal(main, ["fit", *command(own, "--data.verify=true")], capsys)
    assert f"1 of 24 files are not: {CLASS_NAMES[1]}/{image.name} (unreadable" in message


def test_bad_folders_end_with_one_sentence(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(main, ["fit", *command(tmp_path)], capsys)
    assert "imagenet/train" in message and "image-net.org" in message
    main(["fit", *command(own)])
    shutil.rmtree(own / "ImageNet-C" / "fog" / "3")
    message = refusal(main, ["test", *command(own)], capsys)
    assert "1 are missing: fog 3." in message
    (own / "ImageNet-C" / "snow" / "1" / CLASS_NAMES[0]).rename(own / "elsewhere")
    message = refusal(main, ["test", *command(own, "--data.corruptions=[snow]")], capsys)
    assert f"without {CLASS_NAMES[0]}" in message
    message = refusal(main, ["test", *command(own, "--data.image_size=32")], capsys)
    assert "Expected a trained run" in message
    assert not (own / "results").exists()


def test_every_row_of_the_table_is_understood(root: Path) -> None:
    table = Table.load(root / "configs" / "paper" / "imagenetc.yaml")
    overlay = "configs/imagenet_8gpu.yaml"
    assert [row.name for row in table.rows if row.untrained] == ["torchvision weights"]
    for row in table.rows:
        options = [f"--config={c}" for c in (*table.configs, *row.configs, overlay)]
        options += [f"--{key}={value}" for key, value in row.options.items()]
        recipe = expected_recipe("classification", ["fit", *options])
        assert recipe is not None, row.name
        assert recipe["data"]["init_args"]["batch_size"] == 1024
        assert recipe["model"]["optimizer"]["lr"] == pytest.approx(0.1 * 1024 / 256)


@pytest.mark.slow
def test_two_processes_test_as_one(trained: Path, root: Path) -> None:
    """AdaBN pools its statistics over processes; attacks and errors follow the images alone."""
    more = ["--data.corruptions=[fog]", "--model.adabn=true", "--model.adabn_passes=20"]
    more += ["--model.attacks=[fgsm,pgd]", "--model.attack.steps=2"]
    alone = record(trained, *more)
    call = [sys.executable, "-m", "tasks.classification", "test", *command(trained, *more)]
    call += ["--trainer.strategy=ddp", "--trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(call, cwd=root, env=environment, check=True, timeout=300)
    *_, together = read_results(trained / "results" / "classification.jsonl")
    assert [c["n"] for c in together["conditions"]] == [12] * 6
    assert [a["n"] for a in together["attacks"]] == [12, 12]
    assert together["summary"] == pytest.approx(alone["summary"], abs=1e-5)
