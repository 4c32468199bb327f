"""Options that say one thing together reach a command as one dataclass."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def grouped(name: str, kind: type | str, *options: Decorator) -> Decorator:
    """Add options, in this order; the command gets their values as `name`, one object.

    Parameters
    ----------
    name
        Of the command's parameter.
    kind
        A dataclass whose fields the options are; `module:Class` for one that is imported when the step runs.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Any:
            made = _imported(kind) if isinstance(kind, str) else kind
            own = {field.name: given.pop(field.name) for field in fields(made) if field.name in given}
            return function(*args, **given, **{name: made(**own)})

        command: Callable[..., Any] = called
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _imported(place: str) -> type:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
