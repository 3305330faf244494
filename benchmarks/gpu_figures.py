"""The figures that have a target on a GPU, read from the tables of the benchmarks' parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = ["figures", "rows_of"]

FLOORS, STEP, SECONDS = "1.25", "1.05", "360"
Row = dict[str, str]


def rows_of(text: str) -> list[Row]:
    """The rows of all Markdown tables in `text`, by their columns' names."""
    found: list[Row] = []
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if set(line) <= set("| -"):
            continue
        if header and len(cells) == len(header) and cells != header:
            found.append(dict(zip(header, cells, strict=True)))
        else:
            header = cells
    return found


def figures(parts: Mapping[str, str]) -> str:
    """A Markdown table: what is measured, its target, and what the parts have found so far.

    Args:
        parts: the text of each part, with its tables, by name.
    """
    found = {name: rows_of(text) for name, text in parts.items()}
    lines = ["| figure | target | measured |", "| --- | --- | --- |"]
    for cells in (
        *_layers(found.get("layers", [])),
        *_steps(found.get("step", []), f"{_network(parts, 'step')}, bfloat16 autocast"),
        *_steps(found.get("step_float32", []), f"{_network(parts, 'step_float32')}, float32"),
        *_waits(found.get("synchronisation", [])),
        *_whole(found.get("whole_run", []), "compiled"),
        *_whole(found.get("whole_run_eager", []), "eager"),
        *_rates(found.get("evaluate", [])),
    ):
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _layers(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    """Of SelfNorm and CrossNorm without crops, on each map: the worse of both layouts."""
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.get("both / floor"):
            key = row["layer"], row["map"]
            kept = worst.setdefault(key, dict(row))
            for name in ("forward / floor", "backward / floor", "both / floor"):
                kept[name] = max(kept[name], row[name], key=float)
    for (layer, place), row in worst.items():
        forward, backward = row["forward / floor"], row["backward / floor"]
        measured = f"{forward} forward, {backward} backward, {row['both / floor']} both"
        yield f"{layer}, {place}: time / floor", FLOORS, measured
    kernels = dict.fromkeys(f"{row['layer']} {row['kernels']}" for row in worst.values())
    if kernels:
        yield "kernels of a layer, forward + backward", "", "; ".join(kernels)


def _steps(rows: list[Row], how: str) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        name, _, kind = row.get("step", "").partition(", ")
        if name == "CNSN":
            measured = f"{row['/ baseline']} ({row['quartiles']})"
            yield f"step with CNSN / without, {how}, {kind}", STEP, measured


def _network(parts: Mapping[str, str], name: str) -> str:
    """As the part names it at its end."""
    found = re.search(r"WideResNet-\d+-\d+", parts.get(name, ""))
    return found[0] if found else "a network"


def _waits(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    run = [row for row in rows if not row["what waits first"].startswith("not run")]
    waiting = [row["steps of"] for row in run if row["what waits first"] != "nothing"]
    if run:
        named = f": {', '.join(waiting)}" if waiting else ""
        yield "tasks whose steps wait for the device", "0", f"{len(waiting)} of {len(run)}{named}"


def _whole(rows: list[Row], how: str) -> Iterator[tuple[str, str, str]]:
    by_part = {row["part"]: row for row in rows}
    calculated = any("calculated" in part for part in by_part)
    for part, row in by_part.items():
        if part.startswith("all of "):
            said = f"{row['seconds']}{', calculated in part' if calculated else ''}"
            target = SECONDS if part.startswith("all of 100 ") else ""
            yield f"{part}, {how}: seconds", target, said
        elif row["images/s"]:
            yield f"{part}, {how}: images/s", "", row["images/s"]


def _rates(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        if row["way"] == "one pass":
            yield f"corrupted sets in one pass, {row['network']}: images/s", "", row["images/s"]
