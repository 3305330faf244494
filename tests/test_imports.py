"""Who may import whom (README, "Design")."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("cnsn", "data", "tasks")
TASKS = {"classification", "fixmatch", "segmentation", "text", "adaptation"}
# Folders of tasks/ that serve every task and know none.
TASKLESS = {"engine", "runs", "tables"}
DASHBOARD = ("wandb", "wandb_workspaces")
# Inside the function that needs it, cnsn may import these.
LAZY = {"segmentation_models_pytorch", "safetensors", "triton"}
# Made of Triton, and imported inside a function itself.
TRITON = ("gpu", "launch", "tile_exchange", "tile_gates", "tile_sums", "tiles")
TRITON_FILES = {f"cnsn/kernels/{name}.py" for name in TRITON}


def imports(source: str) -> list[tuple[str, bool]]:
    """Every imported module or name in one, and whether it is imported when the file is."""
    tree = ast.parse(source)
    top = set(map(id, _at_once(tree.body)))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def _at_once(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements outside functions, and not for type checkers alone."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            yield from _at_once([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _at_once([*node.body, *(s for h in node.handlers for s in h.body)])


def violations(package: str, file: str, source: str) -> list[str]:
    """What `file` (a path from the root) of `package` imports against the rules."""
    bad = []
    folder = Path(file).with_suffix("").parts[1]
    for module, at_top in imports(source):
        first, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if (
            first == "tests"
            or (first in DASHBOARD and folder not in ("dashboards", "wandb_logger"))
            or (package == "data" and first in ("cnsn", "tasks"))
            or (
                package == "cnsn"
                and not _allowed_in_cnsn(first, at_top and file not in TRITON_FILES)
                # A family's file is loaded when a block of its library is met.
                and not file.startswith(f"cnsn/backbones/{first}/")
            )
            or (
                module.startswith("cnsn.kernels.")
                and module.split(".")[2] in TRITON
                and at_top
                and file not in TRITON_FILES
            )
            or (first == "tasks" and folder in TASKS | TASKLESS and other in TASKS - {folder})
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
        ("cnsn", "cnsn/backbones/torchvision/resnet.py", "from timm.models import resnet"),
        ("data", "data/a.py", "def f():\n    from cnsn import insert"),
        ("tasks", "tasks/text/module.py", "from tasks.classification import Classification"),
        ("tasks", "tasks/text/module.py", "from tasks import classification"),
        ("tasks", "tasks/engine/cli.py", "import wandb"),
        ("tasks", "tasks/engine/cli.py", "def f():\n    from tasks.text import Text"),
        ("tasks", "tasks/runs/recipe.py", "from tasks import adaptation"),
        ("tasks", "tasks/tables/costs.py", "import tasks.segmentation.networks"),
        ("data", "data/a.py", "from tests.fakes import write_cifar"),
    ],
)
def test_a_planted_violation_is_found(package: str, file: str, source: str) -> None:
    assert violations(package, file, source)


def test_lazy_and_own_imports_pass() -> None:
    assert not violations("cnsn", "cnsn/a.py", "def f():\n    import safetensors")
    assert not violations("cnsn", "cnsn/backbones/timm/resnet.py", "from timm import models")
    assert not violations("tasks", "tasks/text/module.py", "from tasks.engine.cli import run")
    assert not violations("tasks", "tasks/dashboards/__main__.py", "import wandb")


def graph(sources: dict[str, str], depth: int | None = None) -> dict[str, set[str]]:
    """What every module of `sources` imports of them when it is imported itself.

    Args:
        sources: of modules, by their names.
        depth: parts of a name that count, such as 2 for the folders of a package.
    """

    def short(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    found: dict[str, set[str]] = {}
    for name, source in sources.items():
        # `from package import module` takes the module, not what the package itself shows.
        at_once = [module for module, at_top in imports(source) if at_top]
        named = {m if m in sources else m.rpartition(".")[0] for m in at_once}
        found.setdefault(short(name), set()).update(map(short, named & set(sources) - {name}))
    for name, edges in found.items():
        edges.discard(name)
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle; none where there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("depth", [None, 2], ids=["modules", "folders"])
def test_no_circle(root: Path, depth: int | None) -> None:
    sources = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            sources[name.removesuffix(".__init__")] = path.read_text()
    assert circle(graph(sources, depth)) == []


def test_a_planted_circle_is_found() -> None:
    sources = {
        "a": "",
        "a.b.c": "from a.d import e",
        "a.d": "",
        "a.d.e": "import a.b.f",
        "a.b.f": "",
    }
    assert circle(graph(sources)) == []
    assert set(circle(graph(sources, 2))) == {"a.b", "a.d"}
    sources["a.b.f"] = "if x:\n    from a.b import c"
    assert set(circle(graph(sources))) == {"a.b.c", "a.b.f", "a.d.e"}
    sources["a.b.f"] = "def later():\n    from a.b import c"
    assert circle(graph(sources)) == []
