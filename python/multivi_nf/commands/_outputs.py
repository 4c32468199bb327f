"""Options that name results, and steps that look at where these will go before they do anything."""

from __future__ import annotations

import contextlib
import itertools
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from multivi_nf.errors import InputError, told_to_a_shell
from multivi_nf.io.outputs import Kind, check_apart, check_file, check_folder, check_place, marked


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
    """A folder that the step writes some files into, beside what is there; `kind`: their names."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(path_type=Path)
        self.kind = kind

    def look(self, path: Path, option: str) -> None:
        """Refuse a place that cannot be written, or where the step's files would replace others."""
        check_place(path, self.kind, option)


class Step(click.Command):
    """A command that looks at its outputs first."""

    def invoke(self, ctx: click.Context) -> Any:
        """Look, then run."""
        inputs = [path for _, path in _paths(self, ctx, outputs=False)]
        for parameter, path in _paths(self, ctx, outputs=False):
            _refuse_pipe(
                path, parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            )
        _refuse_same([(parameter.opts[0], path) for parameter, path in _paths(self, ctx, outputs=True)])
        with contextlib.ExitStack() as places:
            for parameter, path in _paths(self, ctx, outputs=True):
                option = parameter.opts[0]
                if isinstance(parameter.type, OutputFile | OutputFolder | OutputPlace):
                    parameter.type.look(path, option)
                if isinstance(parameter.type, OutputPlace):
                    places.enter_context(marked(path, parameter.type.kind))
                else:
                    check_apart(path, inputs, option)
            places.enter_context(told_to_a_shell())
            return super().invoke(ctx)


def _refuse_same(outputs: list[tuple[str, Path]]) -> None:
    """Refuse two results under one name: the second would fail, or take the place of the first, after the work."""
    for (one, path), (other, beside) in itertools.combinations(outputs, 2):
        if path.resolve() == beside.resolve():
            raise InputError(
                f"{one} and {other} are both {path}",
                "one result would take the place of the other",
                f"give another name with {other}",
            )


def _refuse_pipe(path: Path, option: str) -> None:
    """Refuse a named pipe or a device, also in a folder of files: a step would wait for it for ever, or read no end."""
    if str(path).startswith(("/dev/", "/proc/")):
        return  # `<(...)` of a shell; who gives it knows what it is
    for one in itertools.chain([path], path.iterdir() if path.is_dir() else ()):
        try:
            mode = one.stat().st_mode
        except OSError:
            continue  # said by whoever reads it
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(
                f"{option} {one} is neither a file nor a folder but a pipe, a socket or a device",
                "files are read more than once, from any place in them",
                "write its content to a file and give that",
            )


def _paths(command: click.Command, ctx: click.Context, *, outputs: bool) -> Iterator[tuple[click.Parameter, Path]]:
    for parameter in command.params:
        if not isinstance(parameter.type, click.Path) or hasattr(parameter.type, "look") != outputs:
            continue
        value = ctx.params.get(parameter.name)
        for path in value if isinstance(value, tuple) else (value,):
            if path is not None:
                yield parameter, Path(path)
