"""What is said where a checkpoint and the command line differ, whatever the working directory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.runs.resume import RecipeInCheckpoint

KIND = "data.segmentation.SourceAndTarget"


def said(caplog: pytest.LogCaptureFixture, stored: Any, asked: Any) -> str:
    callback: Any = RecipeInCheckpoint(asked)
    with caplog.at_level("INFO"):
        callback.on_load_checkpoint(SimpleNamespace(), SimpleNamespace(), {"recipe": stored})
    return caplog.text


def recipe(kind: str = KIND, **options: str) -> dict[str, Any]:
    """With places as a command line makes them absolute: from its working directory."""
    return {"model": {}, "data": {"class_path": kind, "init_args": options}, "trainer": {}}


def test_data_that_have_moved_are_no_other_options(caplog: pytest.LogCaptureFixture) -> None:
    before = recipe(root="/old/sets", target_root="/here/dusk")
    assert said(caplog, before, recipe(root="/new/sets", target_root="/there/dusk")) == ""


def test_other_data_are_called_by_their_names(caplog: pytest.LogCaptureFixture) -> None:
    text = said(caplog, recipe(target_root="/here/dusk"), recipe(target_root="/here/night"))
    assert "target_root: dusk in the checkpoint, night is used" in text
    assert "/here" not in text


@pytest.mark.parametrize("stored", [recipe("no_such_module.Data", root="/a"), {"data": 1}, {}])
def test_a_checkpoints_word_for_its_data_is_not_imported(
    stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert KIND in said(caplog, stored, recipe(root="/b"))
