from __future__ import annotations

import argparse
import os
import pickle
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from cnsn import CNSNSpec, insert, load_official
from cnsn.checkpoint import convert, not_finite, read_state_dict
from cnsn.checkpoint.__main__ import main
from cnsn.nets import resnet50, resnet50_ibn, wide_resnet


def build(position: str = "post") -> nn.Module:
    return insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", position=position)).eval()


def save_officially(
    net: nn.Module, path: Path, *, best_acc: Any = 0.762, steps: int = 1, **options: Any
) -> Path:
    """As the official scripts do: DataParallel's names beside the state of the training."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = nn.DataParallel(net).state_dict()
    content = {"epoch": 90, "state_dict": state, "best_acc": best_acc}
    torch.save({**content, "optimizer": optimizer.state_dict()}, path, **options)
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


RELEASED: dict[str, tuple[Callable[[], nn.Module], CNSNSpec]] = {
    "CN": (resnet50, CNSNSpec(kind="cn", image=True, crop="both")),
    "SN": (resnet50, CNSNSpec(kind="sn", position="post")),
    "CNSN": (resnet50, CNSNSpec(kind="cnsn", position="post", image=True)),
    "CNSN+IBN+AugMix": (resnet50_ibn, CNSNSpec(kind="cnsn", position="residual", image=True)),
}


@pytest.mark.parametrize("name", list(RELEASED))
def test_files_in_the_format_of_the_released_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by torch 1.2 on a GPU: no zip archive, storages of cuda:0."""
    build, spec = RELEASED[name]
    source = insert(build(), spec).eval()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        # Momentum doubles a file of 100 MB: once is enough.
        steps = 1 if name == "CNSN" else 0
        path, legacy = tmp_path / "ResNet_best_ckpt", {"_use_new_zipfile_serialization": False}
        save_officially(source, path, steps=steps, **legacy)
    raw = path.read_bytes()
    assert not raw.startswith(b"PK") and b"cuda:0" in raw and b"module.layer4" in raw
    target = load_official(insert(build(), spec), path).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(target(x), source(x))
    # The plain network lacks SelfNorm's parameters; CrossNorm has none.
    if spec.selfnorm:
        with pytest.raises(ValueError, match=r"unexpected: layer1\.0\.cnsn\.selfnorm\.g_fc"):
            load_official(build(), path)
    else:
        load_official(build(), path)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_an_accuracy_that_is_a_number_of_numpy(tmp_path: Path, module: str) -> None:
    source = build()
    path = tmp_path / "ckpt"
    save_officially(source, path, best_acc=np.float64(0.762), _use_new_zipfile_serialization=False)
    # A pickle of protocol 2 holds module names as lines of text.
    other = re.sub(rb"cnumpy\._?core\.multi", f"c{module}.multi".encode(), path.read_bytes())
    assert f"c{module}.multiarray\nscalar".encode() in other
    path.write_bytes(other)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_official(build(), path)(x), source(x))
    # Read on the way, allowed nowhere else.
    with pytest.raises(pickle.UnpicklingError, match=r"multiarray\.scalar"):
        torch.load(path, weights_only=True)


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
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    pickle.loads(pickle.dumps(Exploit(victim)))
    assert victim.is_file()  # It works where pickle is trusted.
    victim.unlink()
    # Each place of an otherwise sound file.
    state = build().state_dict()
    contents: list[Any] = [
        Exploit(victim),
        {"state_dict": Exploit(victim)},
        {"state_dict": {**state, "fc.bias": Exploit(victim)}},
        {"state_dict": state, "best_acc": Exploit(victim)},
        {"state_dict": state, "optimizer": {"state": [Exploit(victim)]}},
    ]
    path = tmp_path / "ckpt"
    for content in contents:
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(
                ValueError, match=r"it asks for posix\.system\)\. Nothing in it was ex"
            ):
                load_official(build(), path)
    path.write_bytes(pickle.dumps(Exploit(victim), protocol=2))
    with pytest.raises(ValueError, match="Nothing in it was executed"):
        load_official(build(), path)
    # What is named safetensors is not unpickled.
    path.rename(renamed := tmp_path / "ckpt.safetensors")
    with pytest.raises(ValueError, match="Nothing in it was executed"):
        load_official(build(), renamed)
    assert not victim.exists()


def test_unreadable_files(tmp_path: Path) -> None:
    whole = save_officially(build(), tmp_path / "checkpoint.pth.tar").read_bytes()
    broken = tmp_path / "broken.pth"
    cut = [whole[: len(whole) * part // 4] for part in (1, 2, 3)]
    torch.save(build().state_dict(), broken)  # in the newer format, a zip
    cut += [broken.read_bytes()[: broken.stat().st_size * part // 4] for part in (1, 2, 3)]
    for content in (b"", b"<html>not found</html>", *cut):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"could not be read safely.*download it again"):
            load_official(build(), broken)
    torch.save({"state_dict": {"a": 3}}, broken)
    with pytest.raises(ValueError, match="state dict of tensors"):
        load_official(build(), broken)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_official(build(), tmp_path / "absent.pth")


def test_converted_file_holds_the_same_weights(tmp_path: Path) -> None:
    source, x = build(), torch.randn(3, 3, 8, 8)
    path = save_officially(source, tmp_path / "ckpt")
    out = tmp_path / "weights.safetensors"
    convert(path, out)
    assert torch.equal(load_official(build(), out)(x), source(x))
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(source.state_dict())
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    # Tensors that share memory, which the format does not know, are written apart.
    shared = torch.randn(3)
    torch.save({"a": shared, "b": shared, "c": shared[1:]}, path)
    state = convert(path, tmp_path / "shared.safetensors")
    again = read_state_dict(tmp_path / "shared.safetensors")
    assert all(torch.equal(again[key], value) for key, value in state.items()) and len(again) == 3


def test_conversion_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = save_officially(build(), tmp_path / "ckpt"), tmp_path / "w.safetensors"
    monkeypatch.setattr(sys, "argv", ["cnsn.checkpoint", "convert", str(path), str(out)])
    # As in a new process, where the package alone has been imported.
    monkeypatch.delitem(sys.modules, "cnsn.checkpoint.__main__")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_module("cnsn.checkpoint", run_name="__main__")
    state = build().state_dict()
    values = sum(value.numel() for value in state.values())
    assert capsys.readouterr() == (f"{out}: {len(state)} tensors, {values:,} values\n", "")


def test_conversion_refuses(tmp_path: Path) -> None:
    path = save_officially(build(), tmp_path / "ckpt")
    existing = tmp_path / "there.safetensors"
    existing.write_bytes(b"mine")
    (tmp_path / "bad").write_bytes(b"no checkpoint")
    for source, out, message in [
        (path, existing, "to be a new file, but it exists"),
        (path, tmp_path / "w.pth", "to end in .safetensors"),
        (path, tmp_path / "no" / "w.safetensors", "Expected the folder"),
        (tmp_path / "absent", tmp_path / "w.safetensors", "no such file"),
        (tmp_path / "bad", tmp_path / "w.safetensors", "could not be read safely"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main(["convert", str(source), str(out)])
    assert existing.read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "ckpt", "there.safetensors"]


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match="pip install safetensors"):
        load_official(build(), tmp_path / "w.safetensors")
    with pytest.raises(ModuleNotFoundError, match="pip install safetensors"):
        convert(tmp_path / "ckpt", tmp_path / "new.safetensors")


def test_weights_of_torchvisions_training_scripts(tmp_path: Path) -> None:
    source = wide_resnet(depth=10, width=1)
    options = argparse.Namespace(lr=0.1, device="cuda", milestones=[30, 60], output=None)
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    content = {"model": state, "optimizer": {"state": {}}, "epoch": 89, "args": options}
    torch.save(content, tmp_path / "model_89.pth")
    found = read_state_dict(tmp_path / "model_89.pth")
    assert found.keys() == source.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in source.state_dict().items())


def test_without_the_counters_of_batch_norms(tmp_path: Path) -> None:
    source, target = (wide_resnet(depth=10, width=1) for _ in range(2))
    state = {k: v for k, v in source.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "old.pth")
    load_official(target, tmp_path / "old.pth")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)
    # A file that has them for some layers lost the others.
    counter = "bn1.num_batches_tracked"
    torch.save({**state, counter: torch.tensor(7)}, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=r"missing: .*num_batches_tracked"):
        load_official(target, tmp_path / "some.pth")
    assert not_finite({**state, "fc.bias": torch.tensor([torch.nan])}) == "fc.bias"
