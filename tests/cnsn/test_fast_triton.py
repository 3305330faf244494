"""The Triton kernels without a GPU: their arithmetic, and that they compile for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnsn import kernels
from cnsn.kernels.autograd import backend

pytest.importorskip("triton")


def test_arithmetic_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cnsn.interpreted"],
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
from cnsn.kernels import gpu

maps, where = ("x", "y", "dy", "dx"), ("channels", "positions", "map_width", "sb", "sc", "step")
whole = (*where, *gpu.BOX, *gpu.STYLE_BOX)
kernels = (gpu._moments, gpu._products, gpu._affine, gpu._gradient)
for kernel in kernels:
    # A box may be any number: Triton must not make a kernel for 1 or for multiples of 16.
    assert all(p.do_not_specialize for p in kernel.params if p.name in gpu.BOX + gpu.STYLE_BOX)
for kernel, boxed, last in [(k, False, last) for k in kernels for last in (False, True)] + [
    (k, True, False) for k in kernels
]:
    signature, constants, aligned = {}, {"sc" if last else "step": 1}, {}
    sizes = {"BLOCK_P": 32 if last else 1024, "BLOCK_C": 64 if last else 2}
    for i, p in enumerate(kernel.params):
        if p.is_constexpr:
            constants[p.name] = sizes.get(p.name, boxed if p.name in ("BOXED", "STYLED") else True)
        if p.name in constants:
            signature[p.name] = "constexpr"
            continue
        floats = "*bf16" if p.name in maps and boxed else "*fp32"
        signature[p.name] = "i32" if p.name in whole else floats
        if not p.do_not_specialize:
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
