from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from cnsn import CNSNSpec, insert
from cnsn.nets import allconv, densenet40, resnext29, wide_resnet
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.optim import OptimizerSpec
from tasks.engine.weights import load_weights, named_state_dict


def test_a_file_is_loaded_before_insertion(tmp_path: Path) -> None:
    trained = wide_resnet(depth=10, width=1, num_classes=7)
    path = tmp_path / "net.pth"
    torch.save(trained.state_dict(), path)
    module = CNSNModule(
        wide_resnet(depth=10, width=1, num_classes=3),
        CNSNSpec(kind="sn"),
        CrossNormTraining(),
        OptimizerSpec(),
        weights=str(path),
    )
    own = module.network.state_dict()
    body = {k: v for k, v in trained.state_dict().items() if not k.startswith("fc.")}
    assert all(torch.equal(own[k], v) for k, v in body.items())
    assert own["fc.weight"].shape == (3, 64)
    assert any("selfnorm" in key for key in own)


def test_heads_of_every_network_start_anew_for_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    for build in (allconv, resnext29, densenet40):
        trained = build(num_classes=7)
        torch.save(trained.state_dict(), path)
        for classes in (3, 7):
            net, own = build(num_classes=classes), CNSNModule.HEADS
            assert load_weights(net, str(path), heads=own) == (classes == 7)
            same = [torch.equal(v, trained.state_dict()[k]) for k, v in net.state_dict().items()]
            assert same.count(False) == (0 if classes == 7 else 2)


def test_a_file_with_the_layers_in_it_is_loaded_after_insertion(tmp_path: Path) -> None:
    trained = insert(wide_resnet(depth=10, width=1, num_classes=7), CNSNSpec(kind="cnsn"))
    path = tmp_path / "net.pth"
    # As the official scripts save it.
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, path)

    def module(kind: str) -> CNSNModule:
        net = wide_resnet(depth=10, width=1, num_classes=3)
        spec = CNSNSpec(kind=kind)  # type: ignore[arg-type]
        return CNSNModule(net, spec, CrossNormTraining(), OptimizerSpec(), weights=str(path))

    own = module("sn").network.state_dict()
    same = {k for k, v in trained.state_dict().items() if torch.equal(own[k], v)}
    assert trained.state_dict().keys() - same == {"fc.weight", "fc.bias"}
    with pytest.raises(ValueError, match=r"unexpected: block1\.layer\.0\.cnsn"):
        module("none")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(wide_resnet(depth=16, width=1).state_dict(), path)
    net = wide_resnet(depth=10, width=1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"unexpected: block1\.layer\.1"):
        load_weights(net, str(path))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_published_name_is_read_from_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the file was put there by hand, which the error below tells to do."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weight = ResNet18_Weights.IMAGENET1K_V1
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    trained = resnet18()
    torch.save(trained.state_dict(), folder / weight.url.rpartition("/")[2])
    net = resnet18()
    load_weights(net, "ResNet18_Weights.IMAGENET1K_V1")
    assert torch.equal(net.conv1.weight, trained.conv1.weight)


def test_offline_the_error_says_how_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(OSError, match=r"resnet18-f37072fd\.pth.*--model\.weights"):
        named_state_dict("ResNet18_Weights.IMAGENET1K_V1")
    with pytest.raises(ValueError, match="torchvision weight name"):
        named_state_dict("ResNet18_Weights.IMAGENET9")
    with pytest.raises(ValueError, match="there is no such file"):
        named_state_dict(str(tmp_path / "absent.pth"))
