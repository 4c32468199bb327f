"""Where the pages' templates lie."""

from __future__ import annotations

from importlib import resources

import jinja2


def template(name: str) -> str:
    """Text of one file of `templates/`."""
    return (resources.files("multivi_nf.report") / "templates" / name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Templates of this package, escaped, with an error for every name that is not given."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
