"""Charts as inline SVG and HTML, in colours that follow the page's theme.

A chart is drawn for a width of 360 units, so that its text can be read on a phone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tasks.report.markup import Markup, join, tag

__all__ = ["Bar", "Line", "bars", "heat_map", "legend", "line_chart", "reliability_diagram"]

WIDTH = 360
COLOURS = 10  # --s0 to --s9 of page.css
Points = Sequence[tuple[float, float]]
Bins = Mapping[str, Sequence[float]]


class Bar(NamedTuple):
    """A method's values, one a seed; `reported` is another's value for it."""

    label: str
    colour: int
    values: Sequence[float]
    reported: float | None = None


class Line(NamedTuple):
    """A curve; `spread` is one standard deviation to either side at each point."""

    label: str
    colour: int
    points: Points
    spread: Sequence[float] = ()


def colour(number: int) -> str:
    return f"var(--s{number % COLOURS})"


def legend(entries: Mapping[str, int]) -> Markup:
    """Names with the numbers of their colours."""
    items = (
        tag("li", name, style=f"--c:{colour(i)}", class_="dashed" if i >= COLOURS else None)
        for name, i in entries.items()
    )
    return tag("ul", *items, class_="legend")


def ticks(low: float, high: float, count: int = 4, *, whole: bool = False) -> list[float]:
    """Round numbers, about `count` of them, within [low, high]; `whole` ones where asked for."""
    span = high - low
    if not span > 0:
        return [low]
    raw = max(span / count, 1.0 if whole else 0.0)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A tick's label."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


def _figure(title: str, note: str, content: str) -> Markup:
    caption = [title, tag("span", f" {note}")] if note else [title]
    return tag("figure", tag("figcaption", *caption), content)


def _svg(height: float, label: str, *parts: str) -> Markup:
    box = f"0 0 {WIDTH} {height:g}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=label)


def _text(content: str, x: float, y: float, **attributes: object) -> Markup:
    return tag("text", content, x=f"{x:g}", y=f"{y:g}", **attributes)


def bars(title: str, entries: Sequence[Bar], note: str = "") -> Markup:
    """Horizontal bars from 0; the whisker is one standard deviation over seeds, the diamond what
    was reported."""
    drawn = [(bar, statistics.mean(bar.values), _spread(bar.values)) for bar in entries]
    ends = [mean + spread for _, mean, spread in drawn]
    ends += [bar.reported for bar in entries if bar.reported is not None]
    left = min(6.7 * max(len(bar.label) for bar in entries) + 8, 150)
    room = WIDTH - left - 78
    scale = room / max(*ends, 1e-9)
    parts: list[str] = []
    for i, (bar, mean, spread) in enumerate(drawn):
        y = 22 * i + 4
        value = f"{mean:.1f}" + (f" ± {spread:.1f}" if len(bar.values) > 1 else "")
        parts += [
            _text(_fitted(bar.label, left), left - 8, y + 12, text_anchor="end"),
            tag("rect", x=f"{left:g}", y=y, width=f"{max(mean, 0) * scale:.1f}", height=16, rx=2,
                fill=colour(bar.colour)),
        ]  # fmt: skip
        if spread:
            low, high = (left + max(mean + s, 0) * scale for s in (-spread, spread))
            parts.append(_path(f"M{low:.1f} {y + 8}H{high:.1f}M{low:.1f} {y + 4}v8"
                               f"M{high:.1f} {y + 4}v8", "whisker"))  # fmt: skip
        end = mean + spread
        if bar.reported is not None:
            x = left + bar.reported * scale
            parts.append(_path(f"M{x:.1f} {y + 3}l5 5l-5 5l-5 -5z", "reported"))
            end = max(end, bar.reported + 6 / scale)
        parts.append(_text(value, left + max(end, 0) * scale + 6, y + 12))
    parts.append(_path(f"M{left:g} 0V{22 * len(entries) + 4}", "axis"))
    return _figure(title, note, _svg(22 * len(entries) + 6, title, *parts))


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _fitted(label: str, width: float) -> str:
    most = int((width - 8) / 6.0)
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _path(path: str, class_: str, **attributes: object) -> Markup:
    return tag("path", d=path, class_=class_, **attributes)


def line_chart(title: str, lines: Sequence[Line], *, x_title: str, note: str = "") -> Markup:
    """Curves over a common axis; names stand in a legend of the whole group of charts."""
    left, top, right, bottom, height = 40, 6, WIDTH - 8, 172, 204
    xs = [x for line in lines for x, _ in line.points]
    ys = [y + sign * s for line in lines for (_, y), s in _with_spread(line) for sign in (-1, 1)]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    margin = 0.05 * (y_high - y_low) or abs(y_high) * 0.1 or 1.0
    y_low, y_high = (max(y_low - margin, 0) if y_low >= 0 else y_low - margin), y_high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return left + across * (right - left), bottom - (y - y_low) / (y_high - y_low) * (
            bottom - top
        )

    parts: list[str] = []
    for value in ticks(y_low, y_high):
        y = place(x_low, value)[1]
        parts += [
            _path(f"M{left} {y:.1f}H{right}", "axis"),
            _text(short(value), left - 5, y + 3, text_anchor="end", class_="tick"),
        ]
    for value in ticks(x_low, x_high, whole=True):
        x = place(value, y_low)[0]
        parts.append(_text(short(value), x, bottom + 13, text_anchor="middle", class_="tick"))
    parts.append(
        _text(x_title, (left + right) / 2, height - 4, text_anchor="middle", class_="tick")
    )
    parts += [part for line in lines for part in _curve(line, place)]
    return _figure(title, note, _svg(height, title, *parts))


def _with_spread(line: Line) -> list[tuple[tuple[float, float], float]]:
    return list(zip(line.points, line.spread or [0.0] * len(line.points), strict=True))


def _curve(line: Line, place: object) -> list[str]:
    assert callable(place)
    parts: list[str] = []
    if any(line.spread):
        upper = [place(x, y + s) for (x, y), s in _with_spread(line)]
        lower = [place(x, y - s) for (x, y), s in _with_spread(line)]
        parts.append(
            _path(_through([*upper, *reversed(lower)]) + "Z", "band", fill=colour(line.colour))
        )
    points = [place(x, y) for x, y in line.points]
    if len(points) > 1:
        # Beyond the colours that there are, the same ones again, dashed.
        dashes = "5 3" if line.colour >= COLOURS else None
        stroke = colour(line.colour)
        parts.append(_path(_through(points), "curve", stroke=stroke, stroke_dasharray=dashes))
    # Few points are measurements that one wants to see, as is a single one.
    if len(points) <= 12:
        parts += [
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.5, fill=colour(line.colour))
            for x, y in points
        ]
    return parts


def _through(points: Points) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def reliability_diagram(title: str, parts: Mapping[str, Bins], note: str = "") -> Markup:
    """Accuracy over confidence for each part; a dot's area is its share of the samples."""
    left, top, side = 40, 6, 190
    width, height = left + side + 8, top + side + 32

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + (1 - y) * side

    drawn: list[str] = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(value, value)
        label = f"{100 * value:.0f}"
        drawn += [
            _path(f"M{left} {y:.1f}H{left + side}", "axis"),
            _text(label, left - 5, y + 3, text_anchor="end", class_="tick"),
            _text(label, x, top + side + 13, text_anchor="middle", class_="tick"),
        ]
    drawn.append(_path(f"M{left} {top + side}L{left + side} {top}", "ideal"))
    for number, bins in enumerate(parts.values()):
        shown = colour(REGIONS[number % len(REGIONS)])
        total = sum(bins["n"])
        filled = [
            (*place(c, a), n / total)
            for n, a, c in zip(bins["n"], bins["accuracy"], bins["confidence"], strict=True)
            if n
        ]
        drawn.append(_path(_through([(x, y) for x, y, _ in filled]), "curve", stroke=shown))
        drawn += [
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{1.5 + 8 * math.sqrt(share):.1f}",
                fill=shown, fill_opacity=0.75)
            for x, y, share in filled
        ]  # fmt: skip
    drawn.append(
        _text("confidence in %", left + side / 2, height - 4, text_anchor="middle", class_="tick")
    )
    svg = tag(
        "svg", *drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=title,
        style="max-width:20rem",
    )  # fmt: skip
    return _figure(title, note, svg)


# Colours of a reliability diagram's parts.
REGIONS = (5, 6, 3, 4)


def heat_map(
    title: str,
    values: Mapping[str, Mapping[int, float]],
    *,
    smallest: float,
    largest: float,
    signed: bool = False,
    note: str = "",
) -> Markup:
    """Rows by name, columns by severity, shaded from `smallest` to `largest`.

    Signed values are shaded by their size, negative ones in another hue.
    """
    severities = sorted({s for row in values.values() for s in row})
    head = [tag("th"), *(tag("th", str(s), scope="col") for s in severities)]
    rows = [tag("tr", *head)]
    for name, row in values.items():
        cells = [tag("th", name.replace("_", " "), scope="row")]
        for severity in severities:
            value = row.get(severity)
            if value is None or math.isnan(value):
                cells.append(tag("td", ""))
                continue
            size = abs(value) if signed else value
            share = round(100 * (size - smallest) / ((largest - smallest) or 1))
            kinds = ["better"] if signed and value < 0 else []
            kinds += ["strong"] if share > 75 else []
            text = f"{round(value):+d}" if signed and round(value) else f"{round(value)}"
            cells.append(tag("td", text, style=f"--v:{share}", class_=" ".join(kinds) or None))
        rows.append(tag("tr", *cells))
    heat = tag("table", tag("tbody", *rows), class_="heat")
    return _figure(title, note, tag("div", heat, class_="scroll"))


def views(names: Mapping[str, Markup], chosen: str) -> Markup:
    """One of several figures at a time, chosen by buttons."""
    buttons = [
        tag(
            "button", name, type="button", data_shows=name, aria_pressed=str(name == chosen).lower()
        )
        for name in names
    ]
    shown = [
        tag("div", content, data_view=name, hidden=None if name == chosen else "")
        for name, content in names.items()
    ]
    return tag("div", tag("div", *buttons, class_="views"), join(shown))
