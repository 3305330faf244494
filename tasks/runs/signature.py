"""What a class takes, the options that it passes on to its parent among them."""

from __future__ import annotations

from functools import cache
from typing import Any

# As the command line reads it, which knows no other way either.
from jsonargparse._parameter_resolvers import get_signature_parameters

__all__ = ["defaults_of"]


@cache
def defaults_of(kind: Any) -> dict[str, Any]:
    """Default by name of every option of a class or function; `inspect.Parameter.empty` is none."""
    return {option.name: option.default for option in get_signature_parameters(kind)}
