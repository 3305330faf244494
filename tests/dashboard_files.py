"""What a Weights & Biases run has written to disk, read without that library's own reader.

A file is a log of records in LevelDB's format: blocks of 32 KiB, in them pieces of records, each
with a checksum, a length and a kind. https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

BLOCK, FILE_HEADER, HEADER = 32768, 7, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Every whole record of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = path.read_bytes(), FILE_HEADER, b""
    while place + HEADER.size <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER.size:
            place += left
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        piece = content[place + HEADER.size : place + HEADER.size + length]
        place += HEADER.size + length
        parts = piece if kind in (FULL, FIRST) else parts + piece
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


class OfflineRun:
    """The records of a run, by what they say.

    Attributes:
        id, group, job, tags, name: of the run.
        config: as logged.
        history: every logged set of values.
        summaries: how a metric is summarised, by its name.
        complete: whether its last record is there.
    """

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summaries: dict[str, set[str]] = {}
        self.complete = False
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
                self.id, self.group, self.job = run.run_id, run.run_group, run.job_type
                self.tags, self.name = list(run.tags), run.display_name
                self.config |= _items(run.config.update)
            elif kind == "exit":
                self.complete = True
            elif kind == "config":
                self.config |= _items(record.config.update)
            elif kind == "history":
                self.history.append(_items(record.history.item))
            elif kind == "metric" and record.metric.name:
                own = record.metric.summary
                kinds = [f.name for f, value in own.ListFields() if value is True]
                self.summaries[record.metric.name] = set(kinds)

    @property
    def names(self) -> set[str]:
        """Of everything logged."""
        return {name for values in self.history for name in values if not name.startswith("_")}


def _items(found: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found}


class Recorder(Logger):
    """Keeps the names of what is logged, also of tables and pictures, in a file of `save_dir`."""

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__()
        assert save_dir is not None
        self.path = Path(save_dir) / "recorded.json"

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> int:
        return 0

    def _add(self, *names: str) -> None:
        known = json.loads(self.path.read_text()) if self.path.is_file() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(sorted({*known, *names})))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._add(*metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not of interest."""

    def log_table(self, key: str, **_: Any) -> None:
        self._add(key)

    def log_image(self, key: str, images: Any, **_: Any) -> None:
        assert len(images)
        self._add(key)
