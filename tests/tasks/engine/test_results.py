from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tasks.engine.media import log_matrix
from tasks.engine.results import append_result, is_final, scan
from tasks.runs.directory import RunDirectory
from tests.tasks.tables.test_tables import record

# What no number was measured for.


def strict(text: str | bytes) -> Any:
    """As any parser but Python's reads it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


PUBLISHED = sorted((Path(__file__).resolve().parents[3] / "results").rglob("*.jsonl"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_published_line_is_json(path: Path) -> None:
    lines = [strict(line) for line in path.read_bytes().splitlines()]
    assert lines and all(fault == "" for _, _, fault in scan(path) if path.parent.name == "results")


GAPS: dict[str, Any] = {
    "summary": {"error": 0.25, "other": math.nan},
    "breakdown": {"round": math.nan, "square": 0.5},
    "conditions": [
        {"corruption": "clean", "severity": 0, "error": 0.25, "ece": math.nan, "n": 4},
        {"corruption": "fog", "severity": 1, "error": math.nan, "ece": math.nan, "n": 0},
    ],
    "history": [{"epoch": 1.0, "error": 0.5, "sst2_error": math.nan}],
    "iou": {"target": {"road": 0.5, "train": math.nan}},
    "recipe": {"trainer": {"gradient_clip_val": math.inf}, "model": {"weights": None}},
    "evaluations": [(math.nan, 1.0)],
}


def test_a_line_says_null_and_older_ones_with_nan_read_the_same(tmp_path: Path) -> None:
    """Both are no value: tables take it for absent, whichever way it is written."""
    written = record("a", 0, 0.25, **GAPS)
    append_result(tmp_path / "new.jsonl", written)
    (tmp_path / "old.jsonl").write_text(json.dumps(written) + "\n")
    line = strict((tmp_path / "new.jsonl").read_text())
    assert line["summary"] == {"error": 0.25, "other": None}
    assert line["iou"]["target"] == {"road": 0.5, "train": None}
    assert line["evaluations"] == [[None, 1.0]]
    assert line["recipe"] == {"trainer": {"gradient_clip_val": "inf"}, "model": {"weights": None}}
    ((_, new, fault),) = scan(tmp_path / "new.jsonl")
    ((_, old, other),) = scan(tmp_path / "old.jsonl")
    assert new is not None and old is not None and fault == other == ""
    assert new.pop("recipe")["model"] == old.pop("recipe")["model"] == {"weights": None}
    assert new == old
    assert new["summary"] == {"error": 0.25} and new["breakdown"] == {"square": 0.5}
    assert new["history"] == [{"epoch": 1.0, "error": 0.5}]
    assert [c["corruption"] for c in new["conditions"]] == ["clean"]
    assert is_final(new, "error") and not is_final(new, "other")


def test_run_records_and_dashboard_tables_have_no_nan(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, seed=0, digest="0" * 8)
    directory.finish({"steps": 3, "speed": {"peak_memory_gib": math.nan}})
    text = (directory.path / "finished.json").read_text()
    assert strict(text) == {"steps": 3, "speed": {"peak_memory_gib": None}}

    class Taking:
        def log_table(self, *, key: str, columns: list[str], data: list[list[Any]]) -> None:
            self.data = data

        def log_image(self, **_: Any) -> None: ...

    logger = Taking()
    log_matrix([logger], "test/iou", {"road": {"a": 50.0, "b": math.nan}, "train": {"a": 5.0}})
    assert strict(json.dumps(logger.data)) == [["road", 50.0, None], ["train", 5.0, None]]
