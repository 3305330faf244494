"""Lines of cells, and blocks of text and tables, as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence

__all__ = [
    "Block",
    "Lines",
    "cell",
    "comma_separated",
    "document",
    "latex",
    "markdown",
    "paired",
    "spread",
]

# The first is the header.
Lines = list[list[str]]
# ("h1", title), ("h2", title) and so on, ("p", text) or ("table", lines).
Block = tuple[str, str | Lines]
NOT_AVAILABLE = "not available"
NOT_RUN = "not run"
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\to$",
}


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation (n - 1); the value alone where there is one seed."""
    if not values:
        return NOT_RUN
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def paired(values: Sequence[float]) -> str:
    """As :func:`spread`, of differences, with their number."""
    if not values:
        return ""
    more = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.1f}{more} ({len(values)})"


def cell(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:.1f}"


def markdown(lines: Lines) -> str:
    rule = ["---"] * len(lines[0])
    shown = [[entry.replace("|", r"\|") for entry in line] for line in [lines[0], rule, *lines[1:]]]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown) + "\n"


def document(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown."""

    def text(kind: str, content: str | Lines) -> str:
        if not isinstance(content, str):
            return markdown(content).rstrip()
        return f"{'#' * int(kind[1:])} {content}" if kind.startswith("h") else content

    return "\n\n".join(text(*block) for block in blocks) + "\n"


def escaped(text: str) -> str:
    """`text` for LaTeX."""
    text = text.replace("->", "→")
    return "".join(ESCAPES.get(character, character) for character in text)


def latex(lines: Lines, *, left: int = 2) -> str:
    """A tabular; the first `left` columns are aligned to the left."""
    body = [" & ".join(map(escaped, line)) + r" \\" for line in lines]
    columns = "l" * left + "r" * (len(lines[0]) - left)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def comma_separated(lines: Lines) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
