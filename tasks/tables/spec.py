"""What a table compares: a file in configs/paper/ (the paper's tables) or configs/studies/ (ours).

title: "A data set: mean corruption error in %, lower is better"
dataset: A data set              # true name; runs on other data get a table of their own
task: a_task
configs: [configs/a_set.yaml]    # of every row
columns: {error: clean error}    # of the record's summary, with their headers; as the task has them
metric: mce                      # the one that `reported` belongs to; as the task has it
rows:
  - {name: CN, network: WideResNet-40-2, options: {model.cnsn.kind: cn}, reported: 21.6}
settings:                        # where the rows are to be run in each of several settings
  amazon to webcam: {data.source: amazon, data.target: webcam}
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from data.errors import quoted
from tasks import task_of

__all__ = ["Row", "Table"]

# Of a file that is no table; an import that fails is of a task that there is not.
_FAULTS = (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method in one setting.

    Args:
        name: of the method.
        network: its network.
        setting: what else tells rows apart, such as a number of labels or a pair of domains.
        configs: YAML files merged after the table's.
        options: of the task's command line, by name.
        trained_as: name of the row of the same network and setting whose trained network this row
            tests with options of its own, so that it is trained once; their configs are the same.
        untrained: it tests the pretrained weights that its options name, once, and trains nothing.
        reported: the paper's value of the table's metric; None where no source could be read.
        independent: that of a published reproduction by others.
        independent_per_corruption: its parts, in the order of `data.corruptions.CORRUPTIONS`.
    """

    name: str
    network: str
    setting: str = ""
    configs: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    trained_as: str = ""
    untrained: bool = False
    reported: float | None = None
    independent: float | None = None
    independent_per_corruption: list[float] | None = None

    @property
    def key(self) -> str:
        """Unique in its table, and fit for a folder's name."""
        parts = [part for part in (self.network, self.setting, self.name) if part]
        return "/".join(part.replace("/", "-") for part in parts).replace(" ", "_")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, or of ours.

    Args:
        key: the file's name, and the prefix of its runs' names.
        title: its heading.
        dataset: the true name of the data that its numbers belong to.
        task: whose command line runs it.
        configs: YAML files of every row.
        rows: methods and settings.
        columns: keys of the record's summary, with the column's header; a file that names none has
            those of its task.
        metric: the summary's key that `reported` and a pivot belong to; likewise.
        scale: factor on every value; 100 for percent.
        setting: header of the rows' settings.
        breakdown: header of the parts that a value is the mean of, such as corruptions or classes.
        note: what the published numbers show and what not; stands under their table.
        samples: training samples of an epoch, for the expected cost; by `data.source` where rows
            have several.
        checkpoint: of a run, which is tested: last, or best, where training data are held out to
            choose the epoch.
        pivot: one line a method and one column a setting, with the mean over settings.
        paper: whether it is one of the paper's, whose values then stand beside ours, or the word
            that none could be read.
    """

    key: str
    title: str
    dataset: str
    task: str
    configs: list[str]
    rows: list[Row]
    columns: dict[str, str] = field(default_factory=dict)
    metric: str = ""
    scale: float = 100.0
    setting: str = "setting"
    breakdown: str = "corruption"
    note: str = ""
    samples: int | dict[str, int] | None = None
    checkpoint: Literal["last", "best"] = "last"
    pivot: bool = False
    paper: bool = False

    @staticmethod
    def load(path: Path) -> Table:
        """The table in a YAML file."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            rows = [Row(**row) for row in content.pop("rows")]
            if not content.keys() >= {"columns", "metric"}:
                task = task_of(content["task"])
                content = {"columns": dict(task.COLUMNS), "metric": task.METRIC, **content}
        except (*_FAULTS, ImportError, AttributeError) as error:
            raise ValueError(
                f"Expected {path} to be a table in YAML, but {quoted(error)}."
            ) from error
        if settings := content.pop("settings", None):
            rows = [
                replace(row, setting=name, options={**options, **row.options})
                for name, options in settings.items()
                for row in rows
            ]
        content["paper"] = path.parent.name == "paper"
        table = Table(key=path.stem, rows=rows, **content)
        keys = [row.key for row in table.rows]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"Expected the rows of {path} to differ, but {twice} stand twice.")
        for row in table.rows:
            table.trained(row)
        if table.metric not in table.columns:
            raise ValueError(
                f"Expected `metric` in {path} to be one of its columns {list(table.columns)}, but "
                f"got {table.metric!r}."
            )
        return table

    def run_name(self, row: Row) -> str:
        """The `--name` of the row's runs."""
        return f"{self.key}/{row.key}"

    def trained(self, row: Row) -> Row:
        """The row whose training `row` tests: itself, or the one that it names."""
        if not row.trained_as:
            return row
        place = row.network, row.setting, row.trained_as
        for other in self.rows:
            trains = not (other.trained_as or other.untrained)
            if (other.network, other.setting, other.name) != place or not trains:
                continue
            if other.configs != row.configs:
                raise ValueError(
                    f"Expected {row.key} to have the `configs` {other.configs} of the row that it "
                    f"is `trained_as`, but got {row.configs}: what it tests otherwise goes into "
                    "`options`."
                )
            return other
        raise ValueError(
            f"Expected `trained_as` of {row.key} to name a trained row of the same network and "
            f"setting, but got {row.trained_as!r}."
        )

    @property
    def compares(self) -> bool:
        """Whether values that others measured stand beside ours."""
        return self.paper or any(
            row.reported is not None or row.independent is not None for row in self.rows
        )
