"""What a class or a function takes, the options that it passes on to others among them."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

# As the command line reads it, which knows no other way either.
from jsonargparse._parameter_resolvers import get_signature_parameters

__all__ = ["defaults_of", "hints_of", "options_of"]


@cache
def options_of(kind: Any) -> dict[str, Any]:
    """Every option of a class or function by name, with its `annotation` and `default`."""
    return {option.name: option for option in get_signature_parameters(kind)}


def defaults_of(kind: Any) -> dict[str, Any]:
    """Default by name of every option of a class or function; `inspect.Parameter.empty` is none.

    The number of classes is a network's option also where the network calls it otherwise. Of other
    libraries' classes, only what they name themselves: their runs are called so.
    """
    found = {name: option.default for name, option in options_of(kind).items()}
    if kind.__module__.partition(".")[0] not in ("cnsn", "data", "tasks"):
        found = {name: found[name] for name in inspect.signature(kind).parameters if name in found}
    return {"num_classes": None, **found}


def hints_of(kind: Any) -> dict[str, Any]:
    """Type by name of every option; one that cannot be found is left out."""
    options = options_of(kind).items()
    return {name: o.annotation for name, o in options if not isinstance(o.annotation, str)}
