"""A command line's parser: one sentence where it is wrong, and no option of another class."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from jsonargparse import Namespace, _typehints
from jsonargparse._util import import_object
from lightning.pytorch.cli import LightningArgumentParser

__all__ = ["TaskParser", "own_options"]


class TaskParser(LightningArgumentParser):
    """Says what is wrong without the page of options before it, which ``--help`` prints."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {plain(message, self._option_string_actions)}\n")
        sys.exit(2)


@contextmanager
def own_options(say: Callable[[str], None]) -> Iterator[None]:
    """Within it, a class takes the place of another without the options that were given to that.

    A parser would keep those that the new class happens to know by name: a width of 2 meant for
    WideResNet, as AllConv's.

    Args:
        say: is told, once, what is dropped.
    """
    said: set[str] = set()

    def drop(parser: Any, before: Any, value: Any) -> None:
        if not before or "init_args" not in before or before["class_path"] == value["class_path"]:
            return
        if _same_class(before["class_path"], value["class_path"]):
            value["class_path"] = before["class_path"]  # One class has one name.
            return
        dropped = list(before.init_args.items(branches=True, nested=False))
        named = ", ".join(f"{name} {given}" for name, given in dropped)
        before.init_args = Namespace()
        before.pop("dict_kwargs", None)
        old, new = (str(one["class_path"]).rpartition(".")[2] for one in (before, value))
        sentence = f"{new} takes the place of {old}, whose options do not hold for it: {named}."
        if named and sentence not in said:
            said.add(sentence)
            say(sentence)

    with patch.object(_typehints, "discard_init_args_on_class_path_change", drop):
        yield


def _same_class(*paths: str) -> bool:
    """Whether all paths lead to one class; not where one leads nowhere."""
    try:
        one, other = map(import_object, paths)
    except (ImportError, AttributeError, ValueError):
        return False
    return one is other


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
