"""Look at YAML files before a parser does, which takes their word for how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

__all__ = ["check_config_files"]

ENDINGS = (".yaml", ".yml", ".json")
LARGEST = 1 << 20  # bytes; the largest of configs/ has a hundredth of it
NODES = 100_000  # values, with everything that an alias repeats


def check_config_files(arguments: Sequence[str]) -> None:
    """Refuse files among the arguments of a command line that no configuration is.

    Raises:
        ValueError: a file is not UTF-8, too large, or repeats its parts without end, as a few
            lines of aliases can; or it says one key twice, of which a parser takes the last in
            silence. The message names it.
    """
    for number, argument in enumerate(arguments):
        path = Path(argument.partition("=")[2] if argument.startswith("-") else argument)
        if path.suffix not in ENDINGS or not path.is_file():
            continue
        if path.stat().st_size > LARGEST:
            raise ValueError(f"Expected {path} to be a configuration, but it has over 1 MiB.")
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise ValueError(f"Expected {path} to be UTF-8, but it is not: {error}.") from error
        except (yaml.YAMLError, RecursionError):
            continue  # The parser says where.
        before = arguments[number - 1] if number else ""
        whole = argument.startswith("--config=") or before == "--config"
        if whole and not isinstance(node, yaml.MappingNode):
            found = "a list" if isinstance(node, yaml.SequenceNode) else "a value"
            raise ValueError(
                f"Expected {path} to hold options, as key: value, but it holds "
                f"{'nothing' if node is None else found}."
            )
        if node is not None and _size(node, {}) > NODES:
            raise ValueError(
                f"Expected {path} to be a configuration, but its aliases stand for more than "
                f"{NODES:,} values: write out what you need."
            )
        if node is not None and (key := _key_said_twice(node, set())) is not None:
            raise ValueError(
                f"Expected {path} to say every key once, but {key.value!r} stands again in line "
                f"{key.start_mark.line + 1}: keep one, as the other would be passed over."
            )


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in the node when every alias is written out; an alias of itself has no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = NODES + 1  # until it is counted: what refers to itself
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _key_said_twice(node: yaml.Node, seen: set[int]) -> yaml.Node | None:
    """The first key that its mapping has already; nodes in `seen` are passed over."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return None
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    else:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                return key
            keys.add(str(key.value))
        children = [part for pair in node.value for part in pair]
    found = (_key_said_twice(child, seen) for child in children)
    return next((key for key in found if key is not None), None)
