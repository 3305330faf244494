"""A command line's parser that says what is wrong in one sentence."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

__all__ = ["TaskParser"]


class TaskParser(LightningArgumentParser):
    """Says what is wrong without the page of options before it, which ``--help`` prints."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {plain(message, self._option_string_actions)}\n")
        sys.exit(2)


def plain(message: str, known: Iterable[str] = ()) -> str:
    """A parser's message on one line, without Python's words for types.

    Args:
        message: of jsonargparse.
        known: options, of which the nearest is named where one is unknown.
    """
    text = " ".join(message.split()).replace("a typing.Literal", "one of ")
    text = re.sub(r"\ba <class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("NoneType", "null")
    union = re.search(r"Does not validate .*? Errors: - (.*) Given value type: <[^>]*> Given", text)
    if union:
        text = (
            f"{text[: union.start()]}{union[1].replace(' - ', ', or: ')}. Got{text[union.end() :]}"
        )
    text = re.sub(r"NestedArg\(key='class_path', val='(.*?)'\)", r"\1", text)
    text = re.sub(r"\bExpected (tuple|list|Sequence)\b", "Expected a list", text)
    text = re.sub(r"^unrecognized arguments: (.*)$", lambda m: _unknown(m[1], known), text)
    return re.sub(
        r"^Option '(.*)' is not accepted$",
        r"Expected an option that the class has, but got '\1': `--data.help=CLASS` and "
        r"`--model.network.help=CLASS` list those of a class.",
        text,
    )


def _unknown(given: str, known: Iterable[str]) -> str:
    name = given.partition(" ")[0].partition("=")[0]
    near = difflib.get_close_matches(name, list(known), 1, 0.75)
    meant = f"; {near[0]} is one" if near else ""
    return f"Expected options that `--help` lists, but got {given}{meant}."
