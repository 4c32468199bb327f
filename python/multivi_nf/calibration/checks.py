"""What calibration.json may hold: each number that is applied must be one that a fit can give."""

from __future__ import annotations

import math
from typing import Any

from multivi_nf.calibration.effects import impossible_effects

_NUMBERS = {"temperature": (0.0, False), "dispersion_factor": (0.0, False)}
"""Entry of a calibrated direction to its lower bound, and whether the bound itself is possible."""

_CURVES = ("mean_sd", "effect_sd")


def impossible(content: Any) -> str:
    """What no calibration can hold, in words; empty if there is nothing.

    Parameters
    ----------
    content
        As read from JSON.
    """
    if not isinstance(content, dict) or not content:
        return "it is empty" if content in ({}, []) else "it is not a JSON object"
    kinds = {"calibrated": bool, "n_pairs": int, "batches": list, "directions": dict, "notes": list}
    for name, kind in kinds.items():
        if name not in content:
            return f"{name!r} is missing"
        if not isinstance(content[name], kind) or (kind is int and isinstance(content[name], bool)):
            return f"{name!r} is {_short(content[name])}"
    depth = content.get("atac_depth")
    if depth is not None and not (_is_finite(depth) and depth > 0):
        return f"'atac_depth' is {_short(depth)}"
    for name, entry in content["directions"].items():
        wrong = _direction(entry)
        if wrong:
            return f"direction {name!r}: {wrong}"
    if content["calibrated"] != any(entry["calibrated"] for entry in content["directions"].values()):
        return f"'calibrated' is {content['calibrated']}, which its directions contradict"
    return ""


def _direction(entry: Any) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("calibrated"), bool):
        return "'calibrated' is missing"
    if not entry["calibrated"]:
        return ""
    for name, (low, possible) in _NUMBERS.items():
        value = entry.get(name, None if name == "temperature" else 1.0)
        if not _is_finite(value) or value < low or (value == low and not possible):
            return f"{name!r} is {_short(value)}"
    share = entry.get("shrinkage", 0)
    if not _is_finite(share) or not 0 <= share <= 1:
        return f"'shrinkage' is {_short(share)}"
    for name in _CURVES:
        wrong = _curve(entry[name]) if name in entry and entry[name] is not None else ""
        if wrong:
            return f"{name!r}: {wrong}"
    for kind, effects in (entry.get("effects") or {}).items():
        wrong = impossible_effects(effects)
        if wrong:
            return f"'effects' of {kind}: {wrong}"
    if "levels" in entry and not _is_levels(entry["levels"]):
        return "'levels' are not two ascending rows from 0 to 1"
    widths = entry.get("conformal")
    if widths is not None and not (
        isinstance(widths, dict) and _are_finite(widths.get("edges")) and _are_finite(widths.get("widths"))
        and len(widths["widths"]) == len(widths["edges"]) + 1 and min(widths["widths"]) >= 0
    ):  # fmt: skip
        return "'conformal' does not hold edges and widths"
    return ""


def _curve(curve: Any) -> str:
    if not isinstance(curve, dict) or not _are_finite(curve.get("log_mean")) or not _are_finite(curve.get("sd")):
        return "it does not hold finite values of log_mean and sd"
    if len(curve["log_mean"]) != len(curve["sd"]) or min(curve["sd"], default=0) < 0:
        return "an error is negative, or their number is not that of the means"
    return ""


def _is_levels(levels: Any) -> bool:
    if not isinstance(levels, dict):
        return False
    rows = [levels.get("nominal"), levels.get("used")]
    if not all(_are_finite(row) and len(row) >= 2 for row in rows) or len(rows[0]) != len(rows[1]):
        return False
    return all(row[0] >= 0 and row[-1] <= 1 and all(a <= b for a, b in zip(row, row[1:])) for row in rows)


def _are_finite(values: Any) -> bool:
    return isinstance(values, list) and all(_is_finite(value) for value in values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
