from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PRINT = "from tasks.results import git_commit; print(git_commit())"


def test_the_commit_is_marked_where_the_code_differs(tmp_path: Path, root: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def found() -> str:
        command = [sys.executable, "-c", PRINT]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    for name in ("tasks/__init__.py", "tasks/results.py", "data/__init__.py", "data/locks.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    assert found() == "None"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.jsonl").write_text("{}")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert found() == commit
    (tmp_path / "results" / "a.jsonl").write_text("{}\n{}")
    assert found() == commit
    with (tmp_path / "tasks" / "results.py").open("a") as file:
        file.write("# changed")
    assert found() == commit + "+"
