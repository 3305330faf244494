"""What a class takes, the options that it passes on to its parent among them."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

# As the command line reads it, which knows no other way either.
from jsonargparse._parameter_resolvers import get_signature_parameters

__all__ = ["defaults_of", "hints_of"]


@cache
def defaults_of(kind: Any) -> dict[str, Any]:
    """Default by name of every option of a class or function; `inspect.Parameter.empty` is none.

    Of other libraries' classes, only of what they name themselves: their runs are called so.
    """
    found = {option.name: option.default for option in get_signature_parameters(kind)}
    if kind.__module__.partition(".")[0] in ("cnsn", "data", "tasks"):
        return found
    return {name: found[name] for name in inspect.signature(kind).parameters if name in found}


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Type by name of every option; one that cannot be found is left out."""
    options = get_signature_parameters(kind)
    return {o.name: o.annotation for o in options if not isinstance(o.annotation, str)}
