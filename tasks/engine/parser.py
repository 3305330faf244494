"""How a command line and its files are read: one sentence where they are wrong."""

from __future__ import annotations

import difflib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import lightning as L
import yaml
from jsonargparse import Namespace, _typehints
from jsonargparse._util import import_object

from tasks.engine.base import CNSNModule
from tasks.engine.factories import FactoryParser, network_factories
from tasks.runs.recipe import MODEL_FILES

__all__ = [
    "TaskParser",
    "check_config_files",
    "instantiate",
    "instantiate_with",
    "own_options",
    "own_words",
    "quiet",
    "unknown_metric",
]

ENDINGS = (".yaml", ".yml", ".json")
# Of Lightning's: on machines that are not there, and what it is about to do.
_NEWS_TO_NONE = ("Tip:", "\U0001f4a1 Tip:", "TPU available", "Loading `train_dataloader`")
LARGEST_FILE = 1 << 20  # bytes; the largest of configs/ has a hundredth of it


class TaskParser(FactoryParser):
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
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid - ", "", text)
    text = re.sub(r"NestedArg\(key='class_path', val='(.*?)'\)", r"\1", text)
    text = re.sub(r"\bExpected (tuple|list|Sequence)\b", "Expected a list", text)
    text = re.sub(r"^unrecognized arguments: (.*)$", lambda m: _unknown(m[1], known), text)
    return re.sub(
        r"^Option '(.*)' is not accepted$",
        r"Expected an option that the class has, but got '\1': `--data.help=CLASS` and "
        r"`--model.network.help=CLASS` list those of a class or function.",
        text,
    )


def _unknown(given: str, known: Iterable[str]) -> str:
    name = given.partition(" ")[0].partition("=")[0]
    near = difflib.get_close_matches(name, list(known), 1, 0.75)
    meant = f"; {near[0]} is one" if near else ""
    return f"Expected options that `--help` lists, but got {given}{meant}."


def instantiate(task: type[CNSNModule], config: dict[str, Any]) -> tuple[Any, Any]:
    """The task's module and data module; the weights are fresh, as a checkpoint has them all."""
    parser = FactoryParser()
    parser.add_lightning_class_args(task, "model")
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    for source, target, when in task.LINKS:
        parser.link_arguments(source, target, apply_on=when)
    seed = config["seed_everything"]
    model = {k: None if k in MODEL_FILES else v for k, v in config["model"].items()}
    data = config["data"]
    data = {**data, "init_args": {**data["init_args"], "seed": seed}}
    with network_factories():
        whole = {"model": {**model, "seed": seed}, "data": data}
        made = parser.instantiate(parser.parse_object(whole))
    return made.model, made.data


def instantiate_with(
    task: type[CNSNModule], config: dict[str, Any], *, num_classes: int
) -> tuple[Any, Any]:
    """As :func:`instantiate`, without a look at the data, which need not be there."""
    parser = FactoryParser(exit_on_error=False)
    parser.add_lightning_class_args(task, "model")
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    model = {k: None if k in MODEL_FILES else v for k, v in config["model"].items()}
    network: Any = model["network"]
    network["init_args"] |= {"num_classes": num_classes}
    with network_factories():
        made = parser.instantiate(parser.parse_object({"model": model, "data": config["data"]}))
    return made.model, made.data


def quiet() -> None:
    """Hide messages that ask nothing of the user."""
    for message in (
        "LightningCLI's args parameter",  # given so on purpose
        r".*LeafSpec.*",  # between two libraries
        r"Checkpoint directory .* exists and is not empty",  # a resumed run
        r".*does not have many workers",  # images in memory need none
        r"Be aware that when using `ckpt_path`",  # a test needs no callbacks
        r"predict returned None",  # predictions are written to files
        r"The number of training batches .* is smaller than the logging",  # both ends are logged
        r".*recommended to use `self.log.*sync_dist",  # ours are sums over processes already
    ):
        warnings.filterwarnings("ignore", message)
    # The sentence alone: where in the code it was said helps no user.
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    hints = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    hints.addFilter(lambda record: not record.getMessage().startswith(_NEWS_TO_NONE))
    saving = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    # Of every checkpoint: that it holds more than weights.
    saving.addFilter(lambda record: not record.getMessage().startswith("`weights_only` was not"))


def own_words(error: Exception) -> str:
    """Our sentence, without what others put around it.

    A parser lists all the types that it tried; a loader's worker puts its traceback before.
    """
    text = str(error)
    if text.startswith("Caught "):
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    lines = [line.strip(" -") for line in text.splitlines()]
    ours = [line for line in lines if line.startswith("Expected ") and "<class '" not in line]
    return ours[0] if ours and "Union subtypes" in lines[0] else text


def unknown_metric(error: Exception) -> str | None:
    """What to say where a callback waits for a metric that is never logged; None if it is not so.

    Which there are is known after the first validation.
    """
    found = re.match(r"Early stopping conditioned on metric `(.*?)` .* following: (.*)", str(error))
    if found is None:
        return None
    return f"Expected EarlyStopping's `monitor` to be one of {found[2]}, but got `{found[1]}`."


class _KeysOnce(yaml.BaseLoader):
    """Refuses a key that its mapping has already, of which a parser takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise ValueError(
                    f"Expected {self.name} to say every key once, but {key.value!r} stands again "
                    f"in line {key.start_mark.line + 1}: keep one, as the other would be passed "
                    "over."
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def check_config_files(arguments: Sequence[str]) -> None:
    """Refuse files among the arguments of a command line that no configuration is.

    Raises:
        ValueError: a file is not UTF-8, too large, holds no options or says one key twice. The
            message names it.
    """
    for number, argument in enumerate(arguments):
        path = Path(argument.partition("=")[2] if argument.startswith("-") else argument)
        if path.suffix not in ENDINGS or not path.is_file():
            continue
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"Expected {path} to be a configuration, but it has over 1 MiB.")
        try:
            with path.open(encoding="utf-8") as file:
                found = yaml.load(file, Loader=_KeysOnce)
        except UnicodeDecodeError as error:
            raise ValueError(f"Expected {path} to be UTF-8, but it is not: {error}.") from error
        except (yaml.YAMLError, RecursionError):
            continue  # The parser says where.
        before = arguments[number - 1] if number else ""
        whole = argument.startswith("--config=") or before == "--config"
        if whole and not isinstance(found, dict):
            kind = (
                "nothing" if found is None else "a list" if isinstance(found, list) else "a value"
            )
            raise ValueError(
                f"Expected {path} to hold options, as key: value, but it holds {kind}."
            )
