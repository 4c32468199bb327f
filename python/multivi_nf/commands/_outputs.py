"""Options that name results, and steps that look at where these will go before they do anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from multivi_nf.io.outputs import Kind, check_apart, check_file, check_folder


class OutputFile(click.Path):
    """A file that the step writes; `form` is what it holds, see :func:`multivi_nf.io.outputs.check_file`."""

    def __init__(self, form: str = "") -> None:
        super().__init__(path_type=Path)
        self.form = form

    def look(self, path: Path, option: str) -> None:
        """Refuse what must not be replaced."""
        check_file(path, self.form, option)


class OutputFolder(click.Path):
    """A folder that the step writes whole; `kind`: what may be replaced, None where nothing may."""

    def __init__(self, kind: Kind | None) -> None:
        super().__init__(path_type=Path)
        self.kind = kind

    def look(self, path: Path, option: str) -> None:
        """Refuse what must not be replaced."""
        check_folder(path, self.kind, option)


class OutputPlace(click.Path):
    """A folder that the step writes some files into, beside what is there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def look(self, path: Path, option: str) -> None:
        """Refuse a place that cannot be written."""
        check_file(path / ".probe", "", option)


class Step(click.Command):
    """A command that looks at its outputs first."""

    def invoke(self, ctx: click.Context) -> Any:
        """Look, then run."""
        inputs = [path for _, path in _paths(self, ctx, outputs=False)]
        for parameter, path in _paths(self, ctx, outputs=True):
            option = parameter.opts[0]
            parameter.type.look(path, option)
            if not isinstance(parameter.type, OutputPlace):
                check_apart(path, inputs, option)
        return super().invoke(ctx)


def _paths(command: click.Command, ctx: click.Context, *, outputs: bool) -> Iterator[tuple[click.Parameter, Path]]:
    for parameter in command.params:
        if not isinstance(parameter.type, click.Path) or hasattr(parameter.type, "look") != outputs:
            continue
        value = ctx.params.get(parameter.name)
        for path in value if isinstance(value, tuple) else (value,):
            if path is not None:
                yield parameter, Path(path)
