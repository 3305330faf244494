"""What `pip install cnsn` brings: all of cnsn, and nothing that it needs from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import torch

from tests.test_imports import TRITON

# Modules of Triton's kernels need Triton, which only GPU machines have.
IMPORT_ALL = f"""
import importlib, importlib.util, pkgutil, cnsn
names = [m.name for m in pkgutil.walk_packages(cnsn.__path__, "cnsn.")]
if importlib.util.find_spec("triton") is None:
    names = [n for n in names if n.rpartition(".")[2] not in {TRITON}]
for name in names:
    print(importlib.import_module(name).__file__)
"""


def test_every_module_is_in_the_wheel_and_imports_without_the_checkout(
    root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"  # a build writes beside what it builds
    shutil.copytree(root / "cnsn", source / "cnsn", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    for folder in ("data", "tasks"):
        (source / folder).mkdir()
        shutil.copy(root / folder / "__init__.py", source / folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = ["wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, *build, f"--wheel-dir={tmp_path}", source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = {str(path.relative_to(source)) for path in (source / "cnsn").rglob("*.*")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files and "cnsn/py.typed" in held

    env = tmp_path / "env"
    venv.create(env, symlinks=True)
    scheme = {"base": str(env), "platbase": str(env)}
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", scheme))
    # Torch and torchvision come from the environment of the tests, whose own .pth files are not
    # read: of an editable install of the checkout nothing is seen.
    (packages / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    python = str(env / "bin" / "python")
    install = ["--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, *install, wheel], check=True)
    command = [python, "-I", "-c", IMPORT_ALL]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    places = done.stdout.split()
    assert len(places) > 30 and all(place.startswith(f"{packages}/cnsn/") for place in places)
