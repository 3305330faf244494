from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from cnsn import CNSNSpec, insert, load_official
from cnsn.nets import wide_resnet


def build(position: str = "post") -> nn.Module:
    return insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", position=position)).eval()


def save_officially(net: nn.Module, path: Path) -> Path:
    """As the official scripts do: DataParallel's names beside the state of the training."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = nn.DataParallel(net).state_dict()
    torch.save(
        {"epoch": 90, "best_acc": 77.7, "optimizer": optimizer.state_dict(), "state_dict": state},
        path,
    )
    return path


def test_official_file_gives_the_same_logits(tmp_path: Path) -> None:
    source, x = build(), torch.randn(3, 3, 8, 8)
    path = save_officially(source, tmp_path / "checkpoint.pth.tar")
    target = build()
    assert not torch.allclose(target(x), source(x))
    assert load_official(target, path) is target
    assert torch.equal(target(x), source(x))
    torch.save(source.state_dict(), path)
    assert torch.equal(load_official(build(), str(path))(x), source(x))


def test_other_keys_and_shapes_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = save_officially(build(), tmp_path / "checkpoint.pth.tar")
    for net, message in [
        (wide_resnet(depth=10, width=1), r"0 keys are missing; .*block1.layer.0.cnsn.selfnorm"),
        (build("pre"), r"block2.layer.0.cnsn.selfnorm.g_fc.weight \(32, 1, 2\) instead of \(16"),
        (insert(wide_resnet(depth=16, width=1), CNSNSpec(kind="cnsn")), "missing: .*layer.1"),
    ]:
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load_official(net, path)
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


class Exploit:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.save({"state_dict": Exploit(victim)}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Exploit(victim)))
    for name in ("zip.pth", "raw.pth"):
        with pytest.raises(ValueError, match="Nothing in it was executed"):
            load_official(build(), tmp_path / name)
    assert not victim.exists()


def test_unreadable_files(tmp_path: Path) -> None:
    whole = save_officially(build(), tmp_path / "checkpoint.pth.tar").read_bytes()
    broken = tmp_path / "broken.pth"
    for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"could not be read safely.*download it again"):
            load_official(build(), broken)
    torch.save({"state_dict": {"a": 3}}, broken)
    with pytest.raises(ValueError, match="state dict of tensors"):
        load_official(build(), broken)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_official(build(), tmp_path / "absent.pth")
