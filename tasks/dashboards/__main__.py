"""One Weights & Biases workspace a task, from its specification in configs/dashboards/.

    python -m tasks.dashboards --dry-run                 # print the specifications as JSON
    python -m tasks.dashboards --entity TEAM             # build the workspaces of all tasks
    python -m tasks.dashboards text --project my-project --entity TEAM

Sections hold panels of metrics that the task logs (see tasks/dashboards/logger.py). A workspace
shows the runs with the task's tag by their groups (tasks/engine/titles.py), so that a bar is a
mean over seeds. Building needs the extra `dashboards`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

__all__ = ["Panel", "Section", "Spec", "main"]

from tasks import ROOT

FOLDER = ROOT / "configs" / "dashboards"
STEP = "trainer/global_step"
Kind = Literal["line", "bar", "table", "media"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is shown of some metrics.

    Args:
        kind: a curve over steps, one bar a run, a table, or pictures.
        title: above it.
        metrics: names, as logged.
        log_y: logarithmic values.
        optional: the task logs them with some configurations alone.
    """

    kind: Kind
    title: str
    metrics: list[str]
    log_y: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"Expected `kind` to be one of {get_args(Kind)}, but got {self.kind}.")
        if not self.metrics or (self.kind == "table" and len(self.metrics) != 1):
            raise ValueError(
                f"Expected the panel {self.title!r} to have metrics, a table exactly one, but got "
                f"{self.metrics}."
            )


@dataclass(frozen=True, kw_only=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: list[Panel]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The workspace of a task."""

    name: str
    task: str
    sections: list[Section] = field(default_factory=list)

    @staticmethod
    def load(path: Path) -> Spec:
        """The one in a YAML file."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            sections = [
                Section(name=s["name"], panels=[Panel(**panel) for panel in s["panels"]])
                for s in content["sections"]
            ]
            return Spec(name=content["name"], task=content["task"], sections=sections)
        except (TypeError, KeyError, ValueError, yaml.YAMLError) as error:
            raise ValueError(
                f"Expected {path} to be a dashboard, but {type(error).__name__}: {error}"
            ) from error


def workspace_of(spec: Spec, *, entity: str, project: str) -> Any:
    """The workspace, not yet saved."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ValueError(
            "Expected wandb-workspaces to be installed, but it is not: "
            "`pip install -e '.[suite,dashboards]'`; --dry-run needs it not."
        ) from error

    def panel_of(panel: Panel) -> Any:
        metrics: Any = panel.metrics
        if panel.kind == "line":
            return wr.LinePlot(title=panel.title, x=STEP, y=metrics, log_y=panel.log_y)
        if panel.kind == "bar":
            # A group's seeds as one bar, with their spread.
            return wr.BarPlot(
                title=panel.title,
                metrics=metrics,
                groupby="Group",
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
            )
        if panel.kind == "table":
            return wr.WeavePanelSummaryTable(table_name=panel.metrics[0])
        return wr.MediaBrowser(title=panel.title, media_keys=panel.metrics)

    sections = [
        ws.Section(name=s.name, panels=[panel_of(p) for p in s.panels], is_open=True)
        for s in spec.sections
    ]
    runs = ws.RunsetSettings(
        filters=[ws.Tags().isin([spec.task])], groupby=[ws.Metric("Group"), ws.Metric("JobType")]
    )
    return ws.Workspace(
        entity=entity, project=project, name=spec.name, sections=sections, runset_settings=runs
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    tasks = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"among {', '.join(tasks)} (all)")
    parser.add_argument("--project", default="cnsn", help="that runs are logged to (cnsn)")
    parser.add_argument("--entity", help="user or team that the project belongs to")
    parser.add_argument("--dry-run", action="store_true", help="print the specifications as JSON")
    options = parser.parse_args(arguments)
    if unknown := [task for task in options.tasks if task not in tasks]:
        parser.error(f"expected tasks among {', '.join(tasks)}, but got {', '.join(unknown)}")
    if not options.dry_run and not options.entity:
        parser.error("expected --entity, the user or team of the project, or --dry-run")
    try:
        specs = [Spec.load(FOLDER / f"{task}.yaml") for task in options.tasks or tasks]
        if options.dry_run:
            print(json.dumps([asdict(spec) for spec in specs], indent=2, ensure_ascii=False))
            return 0
        for spec in specs:
            workspace = workspace_of(spec, entity=options.entity, project=options.project)
            print(f"{spec.name}: {workspace.save().url}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
