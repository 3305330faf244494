"""Fill README's generated parts from results/: ``python -m tasks.tables.readme [--check]``.

A part begins with ``<!-- results/NAME.md -->`` and ends with ``<!-- end -->``; between them stands
that file's table with what it was made from, without its breakdown.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

__all__ = ["command_for", "fill", "main"]

from tasks import ROOT

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

    return PART.sub(part, text)


def main(arguments: list[str] | None = None) -> int:
    """The command line; with --check nothing is written and 1 says that README is out of date.

    2 says that a file is missing.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args(arguments)
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    try:
        after = fill(before, ROOT)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        return int(after != before)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
