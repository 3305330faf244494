from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.engine.cli import expected_recipe
from tasks.tables.readme import fill, main


def test_parts_are_made_from_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    table = "# Shapes: error\n\n| a |\n\nData: x.\n\n## By class\n\n| b |\n\nMade by `y`.\n"
    (tmp_path / "results" / "shapes.md").write_text(table)
    text = "before\n<!-- results/shapes.md -->\nold numbers\n<!-- end -->\nafter\n"
    expected = "**Shapes: error**\n\n| a |\n\nData: x.\n\nMade by `y`."
    filled = f"before\n<!-- results/shapes.md -->\n{expected}\n<!-- end -->\nafter\n"
    assert fill(text, tmp_path) == filled and fill(filled, tmp_path) == filled
    with pytest.raises(ValueError, match=r"reproduce\.py squares"):
        fill("<!-- results/squares.md -->\n<!-- end -->", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("")
    (tmp_path / "docs" / "page.md").write_text("<!-- results/soak.md -->\n<!-- end -->")
    monkeypatch.setattr("tasks.tables.readme.ROOT", tmp_path)
    assert main(["--check"]) == 2
    assert "`python -m tests.reliability.soak --record results`" in capsys.readouterr().err


def test_readme_shows_the_results_as_they_are(root: Path) -> None:
    status = ["git", "status", "--porcelain", "results"]
    changed = subprocess.run(status, cwd=root, capture_output=True, text=True)
    if changed.returncode or changed.stdout:
        pytest.skip("results/ holds runs that are not committed: their user's, not README's")
    assert main(["--check"]) == 0, "run `python -m tasks.tables.readme`"


PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += [f"docs/{p.name}" for p in sorted((Path(__file__).parents[3] / "docs").glob("*.md"))]


def test_readme_is_short_and_every_page_is_listed(root: Path) -> None:
    assert len((root / "README.md").read_text().splitlines()) <= 200
    listed = (root / "mkdocs.yml").read_text()
    for page in (root / "docs").glob("*.md"):
        assert page.name in listed, page


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(root: Path, page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (root / page).read_text()):
        place, _, anchor = link.partition("#")
        if place.startswith("http"):
            continue
        target = (root / page).parent / place if place else root / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_files_and_modules_that_exist(root: Path, page: str) -> None:
    text = (root / page).read_text()
    for name in set(re.findall(r"\b(?:configs|results|benchmarks)/[\w/.-]+\.\w+", text)):
        assert (root / name).is_file(), name
    for module in set(re.findall(r"python -m ((?:tasks|data|cnsn|benchmarks)(?:\.\w+)+)", text)):
        path = root / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for table in set(re.findall(r"reproduce\.py (\w+)", text)) - {"all", "NAME"}:
        assert list((root / "configs").glob(f"*/{table}.yaml")), table


def test_commands_of_all_pages_are_accepted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `fit` and `test` with its options, parsed by the task that it names."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    text = "\n".join((root / page).read_text() for page in PAGES).replace("\\\n", " ")
    found = re.findall(
        r"^    python -m tasks\.(\w+) ((?:fit|test) .*--config .*)$", text, re.MULTILINE
    )
    assert {task for task, _ in found} >= {"classification", "fixmatch", "segmentation", "text"}
    for task, command in dict.fromkeys(found):
        arguments = shlex.split(command, comments=True)
        assert expected_recipe(task, arguments) is not None, command


@pytest.mark.parametrize("page", ["README.md", "docs/layers.md"])
def test_code_of_the_pages_runs(root: Path, page: str) -> None:
    """The Python blocks, one after the other, with a network that is built in no time."""
    blocks = re.findall(r"```python\n(.*?)```", (root / page).read_text(), re.DOTALL)
    assert blocks
    code = "\n".join(blocks).replace('resnet50(weights="DEFAULT")', "resnet18()")
    prelude = (
        "import torch, torchvision\n"
        "x, y = torch.rand(4, 3, 32, 32), torch.randint(10, (4,))\n"
        "criterion = torch.nn.functional.cross_entropy\n"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", prelude + code]
    subprocess.run(command, cwd=root, check=True, timeout=120)
