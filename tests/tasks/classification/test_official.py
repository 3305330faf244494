"""`--model.official`: files of the official code's format, tested without a run of our own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, insert
from cnsn.checkpoint import convert
from cnsn.nets import wide_resnet
from data.classification.digits import Digits
from tasks.classification.module import main
from tasks.engine.results import read_results
from tests.command_line import places

OPTIONS = [
    "--config=configs/digits.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--model.cnsn.kind=cnsn",
    "--data.corruptions=[contrast]",
]


pytestmark = pytest.mark.usefixtures("in_the_repository")


def network(kind: Literal["none", "cnsn"] = "cnsn") -> nn.Module:
    """A digits network that has seen data, so that its statistics are not the initial ones."""
    torch.manual_seed(3)
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind=kind)).train()
    with torch.no_grad():
        for _ in range(20):
            net(inputs(Digits().read()[0][0][:200]))
    return net.eval()


def inputs(images: object) -> Tensor:
    return (torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def official(net: nn.Module, path: Path) -> Path:
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 90, "best_acc": 0.7, "optimizer": {}, "state_dict": state}, path)
    return path


def test_the_official_weights_are_tested_without_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = network()
    path = official(net, tmp_path / "ResNet_best_ckpt")
    images, labels = Digits().read()[1]
    with torch.inference_mode():
        wrong = net(inputs(images)).argmax(1) != torch.from_numpy(labels)
    convert(path, tmp_path / "converted.safetensors")
    for file in (path, tmp_path / "converted.safetensors"):
        main(["test", *OPTIONS, f"--model.official={file}", *places(tmp_path)])
        *_, record = read_results(tmp_path / "results" / "classification.jsonl")
        assert record["summary"]["error"] == pytest.approx(wrong.float().mean().item(), abs=1e-6)
        assert record["selection"] == "official checkpoint" and record["checkpoint"] == file.name
        assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        # A published record tells no folder.
        digest = record["sha256"][:16]
        assert record["recipe"]["model"]["official"] == f"{file.name} sha256:{digest}"
        assert str(tmp_path) not in json.dumps(record)
    assert "contrast" in capsys.readouterr().out
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


@pytest.mark.parametrize("kind", ["none", "cnsn"])
def test_pretrained_weights_of_the_whole_network_are_tested_without_a_run(
    tmp_path: Path, kind: Literal["none", "cnsn"]
) -> None:
    net = network(kind)
    path = official(net, tmp_path / "net.pth")
    images, labels = Digits().read()[1]
    with torch.inference_mode():
        wrong = net(inputs(images)).argmax(1) != torch.from_numpy(labels)
    options = [*OPTIONS, f"--model.cnsn.kind={kind}", f"--model.weights={path}", *places(tmp_path)]
    main(["test", *options])
    (record,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert record["summary"]["error"] == pytest.approx(wrong.float().mean().item(), abs=1e-6)
    assert record["selection"] == "pretrained weights" and record["checkpoint"] == "net.pth"
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(record)


def test_weights_of_a_part_still_need_a_run(tmp_path: Path) -> None:
    other = official(wide_resnet(depth=10, width=1, num_classes=7), tmp_path / "other.pth")
    own = official(network("none"), tmp_path / "own.pth")
    for path, kind in ((other, "none"), (own, "sn"), (own, "cn")):
        options = [f"--model.weights={path}", f"--model.cnsn.kind={kind}", *places(tmp_path)]
        with pytest.raises(SystemExit, match=r"^error: Expected a trained run .* not the whole"):
            main(["test", *OPTIONS, *options])
    assert not (tmp_path / "results").exists()


def test_training_starts_from_the_official_weights(tmp_path: Path) -> None:
    path = official(network(), tmp_path / "ckpt")
    options = [*OPTIONS, f"--model.official={path}", *places(tmp_path)]
    short = ["--trainer.max_epochs=null", "--trainer.max_steps=1", "--model.optimizer.lr=1e-6"]
    main(["fit", *options, *short])
    (last,) = (tmp_path / "runs").rglob("last.ckpt")
    trained = torch.load(last, weights_only=True)["state_dict"]
    for key, value in network().named_parameters():
        torch.testing.assert_close(trained[f"network.{key}"], value.detach(), rtol=0, atol=1e-4)
    # Now there is a run, and its checkpoint is what `test` takes.
    main(["test", *options, *short])
    (record,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert record["selection"] == "last epoch" and record["finished"]["steps"] == 1


def test_what_cannot_be_loaded_ends_with_one_sentence(tmp_path: Path) -> None:
    plain = official(wide_resnet(depth=10, width=1), tmp_path / "plain")
    for options, message in [
        ([f"--model.official={plain}"], r"keys are missing: block1\.layer\.0\.cnsn"),
        ([f"--model.official={tmp_path / 'absent'}"], "no such file"),
        ([f"--model.official={plain}", f"--model.weights={plain}"], "got both"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: Expected .*{message}"):
            main(["test", *OPTIONS, *options, *places(tmp_path)])
    assert not (tmp_path / "results").exists()
