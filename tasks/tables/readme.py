"""Fill the generated parts of README and docs/: ``python -m tasks.tables.readme [--check]``.

A part begins with ``<!-- results/NAME.md -->`` and ends with ``<!-- end -->``; between them stands
that file's table with what it was made from, without its breakdown. ``<!-- configurations -->``
begins the list of configs/, each with the first sentence of its comment.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from pathlib import Path

__all__ = ["command_for", "fill", "main"]

from tasks import ROOT

LIST = re.compile(r"<!-- configurations -->\n.*?<!-- end -->", re.DOTALL)
PART = re.compile(r"<!-- (results/[\w.-]+\.md) -->\n.*?<!-- end -->", re.DOTALL)
# Of files that are neither a table of `reproduce.py` nor named as their benchmark.
COMMANDS = {
    "audit": "make audit AUDIT=results/audit.md",
    "soak": "python -m tests.reliability.soak --record results",
    "tables": "python reproduce.py all --publish",
    "imdb_sst2_epochs": "python -m tasks.text.curves imdb_sst2 --publish",
    "benchmark_segmentation": "python -m benchmarks.segmentation_loader --out {}",
    "benchmark_layers_2_threads": "python -m benchmarks.layers --threads 2 --out {}",
}


def command_for(name: str) -> str:
    """The command that makes the file results/`name`.md."""
    command = COMMANDS.get(name, f"python reproduce.py {name} --publish")
    if name not in COMMANDS and name.startswith("benchmark_"):
        command = f"python -m benchmarks.{name.removeprefix('benchmark_')} --out {{}}"
    return command.format(f"results/{name}.md")


def fill(text: str, root: Path) -> str:
    """`text` with every generated part made anew.

    Raises:
        ValueError: a part names a file that is not there.
    """

    def part(match: re.Match[str]) -> str:
        path = root / match[1]
        if not path.is_file():
            raise ValueError(
                f"Expected {match[1]}, which README shows, but there is no such file: make it with "
                f"`{command_for(path.stem)}`."
            )
        title, _, rest = path.read_text(encoding="utf-8").partition("\n")
        shown = re.split(r"\n## ", rest)[0].strip()
        made = re.findall(r"^Made by .*$", rest, re.MULTILINE)
        if made and made[-1] not in shown:
            shown += f"\n\n{made[-1]}"
        return f"<!-- {match[1]} -->\n**{title.lstrip('# ')}**\n\n{shown}\n<!-- end -->"

    return LIST.sub(lambda _: _configurations(root), PART.sub(part, text))


def _configurations(root: Path) -> str:
    lines = ["| file | what it is |", "| --- | --- |"]
    for path in sorted((root / "configs").rglob("*.yaml")):
        comment = itertools.takewhile(
            lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()
        )
        words = " ".join(line.lstrip("# ") for line in comment)
        first = re.split(r"\. (?=[A-Z])", words)[0].rstrip(".").replace("|", "\\|")
        lines.append(f"| `{path.relative_to(root)}` | {first} |")
    return "\n".join(["<!-- configurations -->", *lines, "<!-- end -->"])


def main(arguments: list[str] | None = None) -> int:
    """The command line; with --check nothing is written and 1 says that a page is out of date.

    2 says that a file is missing.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args(arguments)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    before = {path: path.read_text(encoding="utf-8") for path in pages}
    try:
        after = {path: fill(text, ROOT) for path, text in before.items()}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        return int(after != before)
    for path, text in after.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
