"""The Triton kernels without a GPU: their arithmetic, and that they compile for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cnsn import SelfNorm, kernels
from cnsn.kernels import autograd
from cnsn.kernels.autograd import backend

pytest.importorskip("triton")


@pytest.mark.parametrize("options", [["--quick"], pytest.param([], marks=pytest.mark.slow)])
def test_arithmetic_in_the_interpreter(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cnsn.kernels.interpreted", *options],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == "checked", done.stderr[-2000:]


COMPILE = """
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cnsn.kernels import tile_exchange, tile_gates, tile_sums, tiles

boxes = tiles.BOX + tiles.STYLE_BOX + tiles.PART
types = dict.fromkeys(("channels", "positions", "map_width", "sb", "sc", "step", *boxes), "i32")
types |= dict.fromkeys(("numbers", "parts"), "i32")
types |= dict.fromkeys(("eps", "g_eps", "f_eps", "momentum", "count", "freedom"), "fp32")
types |= dict.fromkeys(("style_count", "style_freedom"), "fp32")
types |= dict.fromkeys(("order", "takers", "starts"), "*i32") | {"tracked": "*i64"}
on_maps = [tile_sums.moments, tile_sums.products, tiles.affine, tiles.gradient]
on_maps += [tile_exchange.exchange, tile_exchange.exchange_gradient]
on_maps += [tile_gates.gated, tile_gates.gated_gradient]
over_batch = [tile_gates.batch_statistics, tile_gates.gate_sums]
for kernel in [*on_maps, tile_sums.merge]:
    # A box may be any number: Triton must not make a kernel for 1 or for multiples of 16.
    assert all(p.do_not_specialize for p in kernel.params if p.name in boxes)
for kernel, boxed, last in [(k, False, last) for k in on_maps for last in (False, True)] + [
    (k, True, False) for k in (*on_maps, *over_batch, tile_sums.merge)
]:
    signature, constants, aligned = {}, {}, {}
    if kernel in on_maps:
        constants["sc" if last else "step"] = 1
    sizes = {"BLOCK_P": 32 if last else 1024, "BLOCK_C": 64 if last else 2}
    sizes |= {"BLOCK_B": 128, "BLOCK": 256}
    types["batch"] = "i32" if kernel in over_batch else "fp32"
    for i, p in enumerate(kernel.params):
        if p.is_constexpr:
            constants[p.name] = sizes.get(p.name, boxed == (p.name in ("BOXED", "STYLED")))
        if p.name in constants:
            signature[p.name] = "constexpr"
            continue
        floats = "*bf16" if p.name in ("x", "y", "dy", "dx") and boxed else "*fp32"
        signature[p.name] = types.get(p.name, floats)
        if not p.do_not_specialize and signature[p.name] != "fp32":
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
    assert compiled["cubin"]
    loads = re.findall(r"ld\.global\S*", compiled["ptx"])
    # Maps come 16 bytes at a time, in either layout.
    assert boxed or sum(".v4." in load for load in loads) >= 4, (kernel, loads)
print("compiled")
"""


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == "compiled", done.stderr[-2000:]


def test_which_kernels_run_where(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend(torch.zeros(1, 1, 2, 2)).__name__ == "cnsn.kernels.cpu"

    class OnCuda(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

    assert backend(torch.zeros(1, 1, 2, 2).as_subclass(OnCuda)).__name__ == "cnsn.kernels.gpu"
    assert not kernels.suit(torch.zeros(1, 1, 2, 2).as_subclass(OnCuda))


def test_which_gates_the_kernels_make(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2, 3, 2, 2)

    def made(layer: SelfNorm) -> bool:
        return kernels.gates(x, [(layer.g_fc, layer.g_bn)]) is not None

    assert not made(SelfNorm(3))  # on CPU
    monkeypatch.setattr(autograd, "backend", lambda _: SimpleNamespace(gated=None))
    assert made(SelfNorm(3)) and made(SelfNorm(3).eval())
    assert not made(SelfNorm(3).double())
    assert not made(nn.SyncBatchNorm.convert_sync_batchnorm(SelfNorm(3)))
    averaging, heard, replaced, countless = (SelfNorm(3) for _ in range(4))
    averaging.g_bn.momentum = None
    heard.g_bn.register_forward_hook(lambda *_: None)
    replaced.g_bn.forward = lambda score: score  # type: ignore[method-assign]
    countless.g_bn.num_batches_tracked = None
    assert not any(map(made, (averaging, heard, replaced, countless)))
    with_one = SelfNorm(3).eval()
    with_one.g_bn.train()
    assert kernels.gates(x[:1], [(with_one.g_fc, with_one.g_bn)]) is None
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not made(SelfNorm(3))
    finally:
        hook.remove()
