"""What a page shows of run directories: training curves and pictures.

Runs that are being trained are read as they stand: half-written lines and files are passed over.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks import all_tasks
from tasks.report.charts import Line, legend, line_chart
from tasks.report.markup import Markup, grid, sentence, tag

__all__ = ["Run", "curves_section", "drawn_section", "find_runs", "pictures_section"]

# A run's name as it is shown, and its colour's number.
Shown = tuple[str, int]
SEED = re.compile(r"seed(\d+)-")
# Logged as a share, shown in percent.
SHARES = ("error", "ece", "accuracy", "accuracy_all", "miou", "mask_rate")
HIDDEN = re.compile(r"test/|pseudo/class_|.*_iou/|epoch$|step$")
MOST_POINTS = 150
MOST_PICTURES = 12
MOST_PANELS = 24
PICTURE_WIDTH = 1100  # pixels


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: where it is.
        task: of which task.
        name: the `--name` of its command.
        seed: its seed.
        finished: whether its training is.
    """

    path: Path
    task: str
    name: str
    seed: int
    finished: bool

    @property
    def newest(self) -> float:
        """When its metrics were last written."""
        return max((p.stat().st_mtime for p in self.path.glob("metrics/*/metrics.csv")), default=0)


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """The run directories under `folders`; of those of one name and seed the one last written.

    Raises:
        ValueError: a folder is none.
    """
    found: dict[tuple[str, str, int], Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"Expected `--runs` to be a folder of runs, but got {folder}.")
        for config in sorted(folder.resolve().rglob("config.yaml")):
            run = _run(config)
            if run is None:
                continue
            key = run.task, run.name, run.seed
            if key not in found or run.newest > found[key].newest:
                found[key] = run
    return [found[key] for key in sorted(found)]


def _run(config: Path) -> Run | None:
    match = SEED.match(config.parent.name)
    if match is None:
        return None
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        name = str(content["name"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    # runs/<task>/<name>/seed..., where a name may have several parts.
    above = config.parent.parents[len(Path(name).parts)]
    finished = (config.parent / "finished.json").is_file()
    return Run(config.parent, above.name, name, int(match[1]), finished)


def read_curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) of everything logged in training, over all starts of the run."""
    curves: dict[str, dict[int, float]] = {}
    versions = sorted(run.path.glob("metrics/version_*/metrics.csv"), key=_version)
    for path in versions:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                step = _number(row.get("step"))
                for name, text in row.items():
                    value = _number(text)
                    if step is None or value is None or name is None or HIDDEN.match(name):
                        continue
                    # Steps that a resumed run repeats are its own.
                    curves.setdefault(name, {})[int(step)] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def _version(path: Path) -> int:
    digits = path.parent.name.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1


def _number(text: object) -> float | None:
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def thinned(
    points: Sequence[tuple[float, float]], most: int = MOST_POINTS
) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of equally many."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]


def curves_section(runs: Sequence[Run], names: Mapping[str, Shown]) -> list[Markup]:
    """A chart for each logged value, a line for each run.

    Args:
        runs: of one table or task.
        names: how the runs' names are shown.
    """
    panels: dict[str, list[Line]] = {}
    for run in runs:
        label, colour = names[run.name]
        for name, points in read_curves(run).items():
            factor = 100 if name.endswith(SHARES) else 1
            line = Line(label, colour, [(x, factor * y) for x, y in thinned(points)])
            panels.setdefault(name, []).append(line)
    if not panels:
        return [sentence("No training curves: these run directories have no metrics.csv yet.")]
    titles = {k: v for task in all_tasks().values() for k, v in task.CURVES.items()}
    order = sorted(panels, key=lambda name: _importance(name, titles))
    charts = [
        line_chart(
            titles.get(name, name), panels[name], x_title="step",
            note="in %" if name.endswith(SHARES) else "",
        )
        for name in order[:MOST_PANELS]
    ]  # fmt: skip
    shown = dict(names[run.name] for run in runs)
    open_ = sum(not run.finished for run in runs)
    text = f"Runs: {len(runs)}" + (f", unfinished: {open_}" if open_ else "")
    text += "; one line a run. Long curves are means over equal parts."
    return [tag("h3", "Training curves"), legend(shown), grid(charts), sentence(text)]


def _importance(name: str, titles: Iterable[str]) -> tuple[int, str]:
    order = ("train/loss", *titles, "val/")
    place = next((i for i, start in enumerate(order) if name.startswith(start)), len(order))
    return place, name


def picture(path: Path, title: str, note: str = "", width: int = PICTURE_WIDTH) -> Markup:
    """An image within the page, at most `width` pixels wide; a sentence where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            shown = image.convert("RGB")
    except (OSError, SyntaxError) as error:
        return sentence(f"{title}: {path.name} cannot be read ({error}).")
    if shown.width > width:
        height = max(1, round(shown.height * width / shown.width))
        shown = shown.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    shown.save(out, "WEBP", quality=82)
    data = base64.b64encode(out.getvalue()).decode()
    caption = tag("figcaption", title, *([tag("span", f" {note}")] if note else []))
    image_tag = tag(
        "img", src=f"data:image/webp;base64,{data}", alt=title, loading="lazy",
        width=shown.width, height=shown.height,
    )  # fmt: skip
    return tag("figure", caption, tag("button", image_tag, type="button", class_="zoom"))


def pictures_section(runs: Sequence[Run], names: Mapping[str, Shown]) -> list[Markup]:
    """What the runs' tasks draw in their directories, of each name's first seed.

    Args:
        runs: of one table or task.
        names: how the runs' names are shown.
    """
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.name, run)
    tasks = all_tasks()
    found: dict[str, list[Markup]] = {}
    for run in first.values():
        label = f"{names[run.name][0]}, seed {run.seed}"
        for pattern, title in getattr(tasks.get(run.task), "PICTURES", {}).items():
            if files := sorted(run.path.glob(pattern)):
                when, _, number = files[-1].stem.partition("_")
                note = f"after {when} {number.lstrip('0')}" if "*" in pattern else title
                found.setdefault(title, []).append(picture(files[-1], label, note))
    parts: list[Markup] = []
    for title, figures in found.items():
        parts += [tag("h3", title), grid(figures[:MOST_PICTURES], "wide")]
        if left := max(0, len(figures) - MOST_PICTURES):
            parts.append(sentence(f"{left} more are left out."))
    return parts


def drawn_section(folders: Iterable[Path], titles: Mapping[str, str]) -> list[Markup]:
    """A task's pictures of those names that lie in or under `folders`; see `CNSNModule.DRAWN`."""
    always = next(iter(titles), None)
    if always is None:
        return []
    found = sorted({p for folder in folders for p in folder.resolve().rglob(always)})
    figures = [
        picture(first.with_name(name), title, first.parent.name)
        for first in found[: MOST_PICTURES // 3]
        for name, title in titles.items()
        if first.with_name(name).is_file()
    ]
    if len(found) > MOST_PICTURES // 3:
        figures.append(sentence(f"{len(found) - MOST_PICTURES // 3} more folders are left out."))
    return [grid(figures, "wide")] if figures else []
