"""How the page writes numbers and sentences: filters of its template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import SupportsFloat

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from multivi_nf.modalities import MODALITIES
from multivi_nf.report.terms import PHRASES


def number(value: str | SupportsFloat | None) -> str:
    """A number with three digits or in full where it is whole; yes or no; texts as they are; – for none."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    real = float("nan") if value is None else float(value)
    if not np.isfinite(real):
        return "–"
    if real != 0 and not 1e-3 <= abs(real) < 1e6:
        return f"{real:.2e}"
    return f"{real:,.3g}" if abs(real) < 1000 else f"{real:,.0f}"


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def size(n_bytes: float) -> str:
    """GB or MB."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def slug(name: str) -> str:
    """A name as a part of an id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def sentence(parts: object) -> str:
    """What is wrong, why it matters and what to do, as sentences: no part is glued to the next.

    Parameters
    ----------
    parts
        Text, or a mapping or list of texts.
    """
    if isinstance(parts, Mapping):
        parts = list(parts.values())
    texts = [str(part).strip() for part in (parts if isinstance(parts, (list, tuple)) else [parts])]
    return " ".join(f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?' else '.'}" for text in texts if text)


def begun(text: str) -> str:
    """Text with a capital letter at its beginning, unless that is a modality's name, which has none."""
    named = re.match(r"\w+", text)
    return text if named and named[0] in MODALITIES else text[:1].upper() + text[1:]


def options(text: str) -> Markup:
    """Text in which the name of an option (`--max_epochs`) is not broken at its dashes, and terms are explained.

    Percentages are written one way, a direction as an arrow, and neither is broken at the end of a line.
    """
    text = re.sub(r"(\d) ?%", "\\1\N{NO-BREAK SPACE}%", str(text))
    text = re.sub(r"(\w)->(\w)", "\\1\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}\\2", text)
    known = "|".join(re.escape(phrase) for phrase in PHRASES)
    parts = re.split(rf"(--[A-Za-z][\w-]*|\b(?:{known})\b)", text)
    return Markup("").join(_marked(part) if k % 2 else escape(part) for k, part in enumerate(parts))


def _marked(part: str) -> Markup:
    if part.startswith("--"):
        return Markup('<span class="option">{}</span>').format(part)
    return Markup('<abbr title="{}">{}</abbr>').format(PHRASES[part], part)


def true_in(values: pd.Series) -> pd.Series:
    """Where a column of a table that was read as text says true."""
    return values.astype(str).str.lower().eq("true")
