"""HTML that is escaped unless made here, the Markdown that our tables are written in, and the page.

``tag("td", text, class_="x")`` escapes `text`; what `tag` returns goes into other tags as it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "Markup",
    "grid",
    "join",
    "page",
    "paragraph",
    "parse_markdown",
    "sentence",
    "table",
    "tag",
]

HERE = Path(__file__).parent
VOID = {"img", "meta", "rect", "line", "circle", "path"}
INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\([^)]*\)")
# Nothing is fetched, whatever a result line says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; attributes that are None are left out, and ``data_x`` becomes ``data-x``."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{text}/>")
    return Markup(f"<{name}{text}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """All of them, those that are no markup escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children))


def sentence(text: str) -> Markup:
    """What is missing, or what to know of a figure."""
    return tag("p", text, class_="remark")


def grid(items: Iterable[str], size: str = "") -> Markup:
    """Figures beside one another, as many as fit."""
    return tag("div", *items, class_=f"grid {size}".strip())


def inline(text: str) -> Markup:
    """Code and bold of Markdown; of links the text alone, as the page refers to nothing outside."""
    parts: list[str] = []
    end = 0
    for match in INLINE.finditer(text):
        code, bold, link = match.groups()
        parts.append(text[end : match.start()])
        parts.append(tag("code", code) if code else tag("strong", bold) if bold else link)
        end = match.end()
    return join([*parts, text[end:]])


def paragraph(text: str) -> Markup:
    """A paragraph of Markdown."""
    return tag("p", inline(text))


def table(lines: Sequence[Sequence[str]], caption: str = "") -> Markup:
    """A table that sorts by any column; the first line is its header."""
    head, *body = lines
    cells = [tag("th", tag("button", inline(cell), type="button"), scope="col") for cell in head]
    rows = [
        tag("tr", *(tag("td", inline(cell), class_=_kind(cell)) for cell in line)) for line in body
    ]
    parts = [tag("caption", caption)] if caption else []
    parts += [tag("thead", tag("tr", *cells)), tag("tbody", *rows)]
    return tag("div", tag("table", *parts, class_="sortable"), class_="scroll", tabindex=0)


def _kind(cell: str) -> str | None:
    if cell in ("", "not run", "not available"):
        return "none"
    return "short" if len(cell) < 25 else None


def parse_markdown(text: str) -> list[tuple[str, str | list[list[str]]]]:
    """Blocks in order: ("h1", title), ("h2", title), ("p", text) and ("table", lines)."""
    blocks: list[tuple[str, str | list[list[str]]]] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.strip().splitlines()
        if not lines:
            continue
        if lines[0].startswith("#"):
            level = len(lines[0]) - len(lines[0].lstrip("#"))
            blocks.append((f"h{level}", lines[0].lstrip("# ")))
        elif lines[0].startswith("|"):
            cells = [[c.strip() for c in line.strip().strip("|").split("|")] for line in lines]
            blocks.append(("table", [cells[0], *cells[2:]]))
        else:
            blocks.append(("p", " ".join(line.strip() for line in lines)))
    return blocks


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole document.

    Args:
        title: its heading.
        subtitle: a line below.
        sections: (anchor, short name, content) of each.
    """
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    toggle = tag("button", "Dark", id="theme", type="button", aria_pressed="false")
    top = tag("div", tag("h1", title), toggle, class_="top")
    body = [
        tag("header", top, paragraph(subtitle)),
        tag("nav", *links, aria_label="Sections"),
        tag("main", *(tag("section", text, id=anchor) for anchor, _, text in sections)),
        tag("script", Markup((HERE / "page.js").read_text(encoding="utf-8"))),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup((HERE / "page.css").read_text(encoding="utf-8"))),
    ]
    document = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"
