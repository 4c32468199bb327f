"""Options that say one thing together reach a command as one dataclass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def grouped(name: str, kind: type[DataclassInstance], *options: Decorator) -> Decorator:
    """Add options, in this order; the command gets their values as `name`, a `kind` whose fields they are."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Any:
            own = {field.name: given.pop(field.name) for field in fields(kind)}
            return function(*args, **given, **{name: kind(**own)})

        command: Callable[..., Any] = called
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
