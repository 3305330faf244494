"""Files that are replaced whole, and lists that are cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import listed
from data.files import replacing


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    path, held = tmp_path / "x", tmp_path / ("x/y" if folder else "x")

    def write(part: Path, text: str) -> None:
        if folder:
            part.mkdir()
        (part / "y" if folder else part).write_text(text)

    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        write(part, "half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / ".x.part", "of a killed process")
    with replacing(path) as part:
        assert not part.exists()
        write(part, "whole")
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and held.read_text() == "whole"
    with pytest.raises(OSError), replacing(path) as part:
        write(part, "half")
        raise OSError
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and held.read_text() == "whole"


def test_writers_at_the_same_time_are_kept_apart(tmp_path: Path) -> None:
    with replacing(tmp_path / "x", mark=1) as one, replacing(tmp_path / "x", mark=2) as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "x").read_text() == "one"


def test_the_first_few_and_how_many_more() -> None:
    assert listed([]) == "" and listed([1, 2], 2) == "1, 2"
    assert listed("abcde", 2) == "a, b and 3 more" and listed("abc", 1, "; ") == "a and 2 more"
