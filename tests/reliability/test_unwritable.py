"""A run whose folder cannot be written to is tested all the same."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.dashboards.logger import _identity
from tasks.engine.progress import Curves
from tests.reliability.launcher import Launcher
from tests.reliability.runs import options, results_of, run_directory, succeeded

pytestmark = pytest.mark.promise("what a test has measured is added to the results, or printed")


def test_a_run_that_is_only_readable(warm: Launcher, data: Path, tmp_path: Path) -> None:
    """Everything that a test writes beside its line has a place where nothing can be written."""
    command = options("segmentation", data, tmp_path, "--trainer.max_epochs=1")
    succeeded(warm.run("segmentation", ["fit", *command]))
    run = run_directory(tmp_path)
    shutil.rmtree(run / "metrics")
    (run / "metrics").touch()
    for name in ("confusion.json", "iou_by_class.png"):
        (run / name).mkdir()
    output = succeeded(warm.run("segmentation", ["test", *command]))
    for name in ("metrics/version_0", "confusion.json", "iou_by_class.png"):
        assert output.count(f"{run / name} is not written (") == 1
    (line,) = results_of("segmentation", tmp_path)
    assert line["selection"] == "last epoch" and 0 <= line["summary"]["target_miou"] <= 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_curves_of_a_test_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    for place in ("makedirs", "open"):
        needed, spare = Curves(tmp_path / place), Curves(tmp_path / place, needed=False)
        with monkeypatch.context() as patch:
            patch.setattr(type(needed._fs), place, refuse)
            with pytest.raises(OSError, match=os.strerror(number)):
                needed.log_metrics({"test/error": 0.5}, 99)
            with pytest.warns(UserWarning, match="is not written.*added to the results"):
                spare.log_metrics({"test/error": 0.5}, 99)
            spare.log_metrics({"test/error": 0.25}, 199)  # without another word
            spare.finalize("success")
        assert spare.latest == {"test/error": 0.25}


def test_the_dashboards_name_of_a_run_that_cannot_hold_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="dashboard.json is not written"):
        found = _identity(tmp_path / "file" / "run", "test")
    assert found.endswith("-test") and len(found) == 13
