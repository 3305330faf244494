"""``python -m tasks``: every task and tool, a line each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tasks import ROOT

RUNS = '__name__ == "__main__"'


def listed() -> dict[str, list[tuple[str, str]]]:
    """Command and what it does, as the modules' own first lines say it, by kind."""
    tasks = [(_command(p.parent), _purpose(p)) for p in sorted(ROOT.glob("tasks/*/module.py"))]
    known = {command for command, _ in tasks}
    tools = [line for line in map(_tool, _runnable()) if line[0] not in known]
    return {"tasks": tasks, "tools": sorted(tools)}


def _runnable() -> Iterator[Path]:
    for folder in ("tasks", "data", "cnsn"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "module.py" and path != Path(__file__) and RUNS in path.read_text():
                yield path


def _tool(path: Path) -> tuple[str, str]:
    main = path.name == "__main__.py"
    return _command(path.parent if main else path.with_suffix("")), _purpose(path)


def _command(path: Path) -> str:
    return f"python -m {'.'.join(path.relative_to(ROOT).parts)}"


def _purpose(path: Path) -> str:
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    return first.partition("`: ")[2] or first


def main() -> None:
    for kind, lines in listed().items():
        print(f"{kind}:")
        for command, purpose in lines:
            print(f"  {command:<38} {purpose}")
    print("  python reproduce.py                    run a table's missing rows, then print it")
    print("A task: python -m tasks.NAME {fit,validate,test,predict} --help")


if __name__ == "__main__":
    main()
