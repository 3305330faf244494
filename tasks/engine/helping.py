"""Short names, and the page that ``--help`` prints: a task's own options, a line each.

--model.network WideResNet      for cnsn.nets.WideResNet; so `--data CIFAR10`
--data.help                     the options of the data that the configuration names
--help=all                      all options, Lightning's trainer's among them
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from tasks.engine.base import CNSNModule

__all__ = ["help_page", "in_full", "named_by"]

WIDTH = 100
# Of Lightning's, those that most runs are given.
TRAINER = (
    "max_epochs",
    "max_steps",
    "devices",
    "accelerator",
    "strategy",
    "num_nodes",
    "precision",
)
GROUPS = {
    "method": ("model.cnsn.", "model.crossnorm."),
    "network": ("model.network", "model.weights", "model.official", "model.channels_last",
                "model.compile"),
    "data": ("data.",),
    "optimiser": ("model.optimizer.",),
    "task": ("model.",),
    "run": ("",),
}  # fmt: skip


def in_full(arguments: Sequence[str], task: type[CNSNModule]) -> list[str]:
    """A command line with full names in the place of short ones.

    Args:
        arguments: of the command line.
        task: the task's module.
    """
    short = {"--data": task.SETS, "--model.network": {n: (p,) for n, p in task.NETWORKS.items()}}
    full: list[str] = []
    before = ""
    for argument in arguments:
        option, _, value = argument.partition("=")
        if value in short.get(option, {}):
            first, *more = short[option][value]
            full += [f"{option}={first}", *more]
        else:
            full += short.get(before, {}).get(argument, (argument,))
        before = argument
    for option in ("--data.help", "--model.network.help"):
        if option in full and (path := named_by(full, option[2:-5])):
            return [*full[:1], f"{option}={path}"]
    return full


def named_by(arguments: Sequence[str], key: str) -> str | None:
    """The class path that a command line gives to `data` or `model.network`, in files or itself."""
    found = None
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        value = value if equals else "".join(arguments[number + 1 : number + 2])
        if option == f"--{key}":
            found = value
        elif option == "--config" and Path(value).is_file():
            content: Any = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            for part in key.split("."):
                content = (content or {}).get(part)
            found = (content or {}).get("class_path", found)
    return found


def help_page(parser: Any, task: type[CNSNModule], subcommand: str, name: str, data: str) -> str:
    """What ``python -m tasks.<name> <subcommand> --help`` prints.

    Args:
        parser: of the subcommand.
        task: the task's module.
        subcommand: its name.
        name: the task's.
        data: class path of the data whose options are listed.
    """
    own = LightningArgumentParser()
    own.add_class_arguments(pkgutil.resolve_name(data), "data", skip={"seed"})
    lines: dict[str, list[str]] = {group: [] for group in GROUPS}
    for action in (*parser._actions, *own._actions):
        dest = action.dest
        chosen = dest.removeprefix("trainer.") in TRAINER or not dest.startswith("trainer")
        told = action.option_strings and (dest == "config" or not _group(action))
        told = (
            told and not dest.endswith(("help", ".seed")) and dest not in ("data", "weights_only")
        )
        if told and chosen:
            group = next(g for g, starts in GROUPS.items() if dest.startswith(starts))
            lines[group] += _line(action)
    lines["network"] += _names("networks", list(task.NETWORKS))
    lines["data"] = [*_names("sets", list(task.SETS)), *lines["data"]]
    command = f"python -m tasks.{name} {subcommand}"
    page = [f"{command} --config FILE [--config FILE ...] [--OPTION VALUE ...]", ""]
    page += ["Files merge from left to right, then options. configs/ has one a task and data set,"]
    page += ["configs/methods/ the paper's settings of each method."]
    for group, found in lines.items():
        heading = f"{group} ({data})" if group == "data" else group
        page += ["", f"{heading}:", *found]
    page += ["", f"{command} --help=all lists these and Lightning's in full;"]
    page += ["--data.help and --model.network.help those of the configuration's data and network."]
    return "\n".join(page)


def _group(action: Any) -> bool:
    """Whether an option takes a file for a group of options."""
    return str(action.help).startswith("Path to a configuration file")


def _line(action: Any) -> Iterator[str]:
    text = " ".join(str(action.help or "").replace("%%", "%").split())
    text = re.sub(r":\w+:`~?([\w.]+)`", r"\1", text)
    hint = getattr(action, "_typehint", None)
    if get_origin(hint) is Literal:
        text = f"{'|'.join(map(str, get_args(hint)))}: {text.partition(':')[0]}"
    text = re.sub(r"\(type: .*|\(required.*|\(default: .*", "", text)
    text = re.split(r"(?<=[a-z)`])[;.] ", text.replace("``", "`"))[0].rstrip(" .:;")
    default = action.default
    simple = default is None or isinstance(default, str | int | float)
    shown = f" ({default})" if simple and default not in (None, "==SUPPRESS==") else ""
    line = f"  --{action.dest:<28} {text}"
    if len(line + shown) > WIDTH:
        line = f"{line[: WIDTH - len(shown) - 3].rpartition(' ')[0]} ..."
    yield line + shown


def _names(kind: str, names: Sequence[str]) -> list[str]:
    return [f"  {kind}: {', '.join(names)}, or any class's path"]
