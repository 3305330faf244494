"""Who may import whom (README, "Design")."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGES = ("cnsn", "data", "tasks")
TASKS = {"classification", "fixmatch", "segmentation", "text", "adaptation"}
DASHBOARD = ("wandb", "wandb_workspaces")
# Inside the function that needs it, cnsn may import these.
LAZY = {"segmentation_models_pytorch", "safetensors", "triton"}
# Made of Triton, and imported inside a function itself.
TRITON = ("gpu", "launch", "tile_exchange", "tile_gates", "tile_sums", "tiles")
TRITON_FILES = {f"cnsn/kernels/{name}.py" for name in TRITON}


def imports(source: str) -> list[tuple[str, bool]]:
    """Every imported module, and whether it is imported at the top level of the file."""
    tree = ast.parse(source)
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found += [(base, id(node) in top)]
            found += [(f"{base}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def violations(package: str, file: str, source: str) -> list[str]:
    """What `file` (a path from the root) of `package` imports against the rules."""
    bad = []
    for module, at_top in imports(source):
        first, _, rest = module.partition(".")
        own_task, other = Path(file).stem, rest.split(".")[0]
        if (
            first == "tests"
            or (first in DASHBOARD and not file.startswith(("tasks/dashboards", "tasks/wandb_")))
            or (package == "data" and first in ("cnsn", "tasks"))
            or (
                package == "cnsn"
                and not _allowed_in_cnsn(first, at_top and file not in TRITON_FILES)
            )
            or (
                module in {f"cnsn.kernels.{name}" for name in TRITON}
                and at_top
                and file not in TRITON_FILES
            )
            or (package == "tasks" and first == "tasks" and other in TASKS - {own_task})
        ):
            bad.append(module)
    return bad


def _allowed_in_cnsn(first: str, at_top: bool) -> bool:
    if first in ("cnsn", "torch", "torchvision") or first in sys.stdlib_module_names:
        return True
    return first in LAZY and not at_top


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_import_downwards_only(root: Path, package: str) -> None:
    files = sorted((root / package).rglob("*.py"))
    assert files
    for path in files:
        file = str(path.relative_to(root))
        assert violations(package, file, path.read_text()) == [], file


@pytest.mark.parametrize(
    ("package", "file", "source"),
    [
        ("cnsn", "cnsn/a.py", "import numpy"),
        ("cnsn", "cnsn/a.py", "from data.images import x"),
        ("cnsn", "cnsn/a.py", "import safetensors"),
        ("data", "data/a.py", "def f():\n    from cnsn import insert"),
        ("tasks", "tasks/text/module.py", "from tasks.classification import Classification"),
        ("tasks", "tasks/text/module.py", "from tasks import classification"),
        ("tasks", "tasks/engine/cli.py", "import wandb"),
        ("data", "data/a.py", "from tests.fakes import write_cifar"),
    ],
)
def test_a_planted_violation_is_found(package: str, file: str, source: str) -> None:
    assert violations(package, file, source)


def test_lazy_and_own_imports_pass() -> None:
    assert not violations("cnsn", "cnsn/a.py", "def f():\n    import safetensors")
    assert not violations("tasks", "tasks/text/module.py", "from tasks.engine.cli import run")
    assert not violations("tasks", "tasks/dashboards/__main__.py", "import wandb")
