"""Networks from any factory: `--model.network` names a class or a function, of any library.

A command line reads the options of classes alone, and hands on the number of classes as
`num_classes`. So a factory that is a function, or that counts the classes under another name or not
at all, is read as a class made for it here, with the factory's options and `num_classes`. What is
written down, in recipes and configurations, is the factory's own name with its own options.
"""

from __future__ import annotations

import inspect
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast
from unittest.mock import patch

from jsonargparse import Namespace, _actions, _typehints, _util
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn
from typing_extensions import NotRequired

from tasks.engine.heads import fit_head
from tasks.runs.signature import defaults_of, options_of

__all__ = ["FactoryParser", "network_factories"]

# What factories call the number of classes.
COUNTS = (
    "num_classes",
    "n_classes",
    "nb_classes",
    "num_labels",
    "classes",
    "n_class",
    "class_num",
    "num_outputs",
    "n_outputs",
    "output_dim",
    "out_dim",
    "out_features",
)
# What makes them load or fetch weights, and the value with which they do not.
LOADED: dict[str, Any] = {
    "checkpoint_path": None,
    "encoder_weights": None,
    "pretrained": False,
    "pretrained_backbone": False,
    "pretrained_cfg": None,
    "pretrained_cfg_overlay": None,
    "weights": None,
    "weights_backbone": None,
}
LONGEST_LIST = 2000  # characters of help
EMPTY = inspect.Parameter.empty
_of_network: ContextVar[bool] = ContextVar("of_network", default=False)


class FactoryParser(LightningArgumentParser):
    """Takes any option of a factory that passes on what it does not know itself."""

    open = False

    def add_class_arguments(self, class_type: Any, *args: Any, **options: Any) -> Any:
        self.open = getattr(class_type, "OPEN", False)
        return super().add_class_arguments(class_type, *args, **options)

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        if self.open:
            self._take(one.removeprefix("--").partition("=")[0] for one in args)
        return super().parse_args(args, *more, **options)

    def parse_object(self, cfg_obj: Any, *more: Any, **options: Any) -> Any:
        if self.open:
            self._take(vars(cfg_obj) if isinstance(cfg_obj, Namespace) else cfg_obj)
        return super().parse_object(cfg_obj, *more, **options)

    def _take(self, names: Any) -> None:
        for name in names:
            if f"--{name}" not in self._option_string_actions:
                self.add_argument(f"--{name}", type=Any, default=SUPPRESS)


@contextmanager
def network_factories() -> Iterator[None]:
    """Within it, command lines take any factory where a module stands, as a network does."""
    adapt, helped = _typehints.adapt_typehints, _actions._ActionHelpClassPath.resolve_help_type
    found, listing = _util.import_object, _typehints.ActionTypeHint.extra_help

    def adapt_typehints(val: Any, typehint: Any, *args: Any, **options: Any) -> Any:
        with _reading(typehint is nn.Module):
            return adapt(val, typehint, *args, **options)

    def resolve_help_type(self: Any, *args: Any) -> Any:
        with _reading(self._typehint is nn.Module):
            return helped(self, *args)

    def import_object(name: str) -> Any:
        value = found(name)
        return _as_class(value, name) if _of_network.get() and callable(value) else value

    def extra_help(self: Any) -> str:
        """Without the thousands of modules that options such as `norm_layer` could be."""
        text: str = listing(self)
        return text if self._typehint is nn.Module or len(text) < LONGEST_LIST else ""

    with (
        patch.object(_typehints.ActionTypeHint, "extra_help", extra_help),
        patch.object(_typehints, "adapt_typehints", adapt_typehints),
        patch.object(_typehints, "import_object", import_object),
        patch.object(_actions, "import_object", import_object),
        patch.object(_actions._ActionHelpClassPath, "resolve_help_type", resolve_help_type),
    ):
        yield


@contextmanager
def _reading(network: bool) -> Iterator[None]:
    token = _of_network.set(network)
    try:
        yield
    finally:
        _of_network.reset(token)


def _as_class(factory: Any, name: str) -> Any:
    """The factory itself where a command line can read it, or a class in its place."""
    if isinstance(factory, type):
        if not issubclass(factory, nn.Module) or factory is nn.Module:
            return factory
        options = options_of(cast(Any, factory))
        if "num_classes" in options and not options.keys() & LOADED.keys():
            return factory
    return _class_of(factory, name)


@cache
def _class_of(factory: Any, name: str) -> type[nn.Module]:
    class Network(nn.Module):
        OPEN = _is_open(factory)

        def __new__(cls, **options: Any) -> Any:
            return _build(factory, name, options)

        def __init__(self, **options: Any) -> None:
            """Never called: what is built is of another class."""

    own = inspect.signature(factory).parameters
    parameters = []
    for option in options_of(factory).values():
        hint = Any if option.annotation is EMPTY or option.name in LOADED else option.annotation
        default = option.default
        if option.name == "num_classes":
            continue
        if option.name not in own or option.name in (*LOADED, *COUNTS):
            # Absent unless given: a factory may set what it passes on to something else.
            hint, default = NotRequired[hint], EMPTY
        parameters.append(_parameter(option.name, hint, default))
    classes = defaults_of(factory)["num_classes"]
    parameters.append(_parameter("num_classes", int | None, None if classes is EMPTY else classes))
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for made in (Network.__new__, Network.__init__):
        vars(made)["__signature__"] = inspect.Signature([itself, *parameters])
    Network.__doc__ = inspect.getdoc(factory)
    Network.__name__ = name.rpartition(".")[2]
    _util.resolved_import_paths.add(Network, name)
    return Network


def _parameter(name: str, hint: Any, default: Any = EMPTY) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _is_open(factory: Any) -> bool:
    """Whether a factory passes options on to what only it knows."""
    own = inspect.signature(factory).parameters
    takes_any = any(option.kind is inspect.Parameter.VAR_KEYWORD for option in own.values())
    return takes_any and options_of(factory).keys() <= own.keys()


def _build(factory: Callable[..., Any], name: str, options: dict[str, Any]) -> nn.Module:
    """What a factory makes of its options, with as many outputs as there are classes.

    Args:
        factory: a class or function.
        name: of it, in sentences.
        options: of it, and `num_classes`; without it, outputs stay as they are.

    Raises:
        ValueError: it makes nothing of them, or no network, or one whose outputs cannot be chosen.
    """
    known = options_of(factory)
    classes = options.pop("num_classes", None)
    count = next((one for one in COUNTS if one in known), None)
    _check_left_out(name, options, count)
    given = {key: value for key, value in LOADED.items() if key in known}
    given |= {k: v for k, v in options.items() if k not in known or v != known[k].default}
    counted = {} if classes is None else {count or "num_classes": classes}
    net, taken = None, count is not None or (bool(counted) and _is_open(factory))
    if taken:
        try:
            net = _called(factory, name, {**given, **counted})
        except _UnknownOption:
            taken = False
    if net is None:
        net = _called(factory, name, given)
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"Expected {name} to build a network, a torch.nn.Module, but got {type(net).__name__}."
        )
    sure = count is not None or (taken and getattr(net, "num_classes", None) == classes)
    if classes is not None and not sure and not fit_head(net, classes) and not taken:
        raise ValueError(
            f"Expected {name} to take the number of classes, as `num_classes`, or to build a "
            "network whose last layer is linear, but it does neither: name a function around it "
            "that takes `num_classes` and builds the right last layer."
        )
    return net


class _UnknownOption(ValueError):
    """A factory does not know the number of classes."""


def _called(factory: Callable[..., Any], name: str, given: dict[str, Any]) -> Any:
    try:
        return factory(**given)
    except Exception as error:
        if isinstance(error, TypeError) and "argument 'num_classes'" in str(error):
            raise _UnknownOption from error
        if isinstance(error, ValueError) and str(error).startswith("Expected "):
            raise
        hidden = {*LOADED, *COUNTS}
        shown = ", ".join(f"{key} {value}" for key, value in given.items() if key not in hidden)
        raise ValueError(
            f"Expected options with which {name} builds a network, but got {shown or 'none'}: "
            f"{type(error).__name__}: {str(error).rstrip('.')}."
        ) from error


def _check_left_out(name: str, options: dict[str, Any], count: str | None) -> None:
    for key in LOADED.keys() & options.keys():
        if options[key] not in (LOADED[key], None):
            raise ValueError(
                f"Expected no `{key}` for {name}, as `--model.weights` gives a network its "
                f"weights, by a name or as a file, but got {options[key]!r}."
            )
        del options[key]
    if count in options:
        raise ValueError(
            f"Expected `{count}` of {name} to follow from the data, but got {options[count]}: "
            "leave it out."
        )
