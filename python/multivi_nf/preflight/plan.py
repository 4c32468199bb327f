"""The gate before all heavy steps: every sample's problems in one go, and what all samples must agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from multivi_nf.counts.features import parse_peak
from multivi_nf.errors import InputError
from multivi_nf.inputs.contrasts import Contrast, check_contrast_groups
from multivi_nf.inputs.genome import read_bed
from multivi_nf.inputs.samplesheet import Sample, unknown_column
from multivi_nf.io.limits import read_json
from multivi_nf.modalities import MODALITIES
from multivi_nf.mosaic.features import check_shared, different_peaks, read_reference, told_spellings
from multivi_nf.mosaic.names import Aliases, met_by_spelling, protein_keys, read_aliases
from multivi_nf.preflight.check import unpack

PEAK_SETS = ("given", "matrix", "reference", "samples", "macs3", "none")


def read_checked(paths: Sequence[Path], samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Read the preflight of every sample, in samplesheet order.

    Raises
    ------
    InputError
        A file that is no preflight, or a sample without one.
    """
    found = {}
    for path in paths:
        try:
            content = read_json(Path(path))
            check_values(content)
            found[content["sample"]] = content
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no preflight ({error!r})",
                "what it checked is not known",
                "run `multivi-nf preflight` again",
            ) from error
    missing = [sample.sample for sample in samples if sample.sample not in found]
    if missing:
        raise InputError(
            f"no preflight of {', '.join(missing)} was given", "their files were not checked", "give one per sample"
        )
    return {sample.sample: found[sample.sample] for sample in samples}


TEXTS = [str]
SHAPE = {
    "sample": str, "problems": [{"what": str, "why": str, "remedy": str}], "warnings": TEXTS, "notes": TEXTS,
    "annotations": (str, TEXTS), "overlap": [{"left": str, "right": str, "shared": int}], "fragments": dict,
}  # fmt: skip
HELD = {"names": str, "cells": int, "features": int}
FACTS = {"rna": HELD | {"symbols": str}, "atac": HELD, "protein": HELD | {"isotype_controls": TEXTS}}
"""What a preflight holds of each modality, and (:data:`SHAPE`) of the sample: what is read of it, and its types."""


def check_values(content: Any) -> None:
    """Look at the values of a preflight that are read of it.

    Raises
    ------
    TypeError
        One of another kind, or none; its place is named.
    """
    _check(content, SHAPE, "it")
    modalities = content.get("modalities")
    if not isinstance(modalities, dict) or not set(modalities) <= set(FACTS):
        raise TypeError("its 'modalities' are no rna, atac or protein")
    for modality, facts in modalities.items():
        _check(facts, FACTS[modality], f"its {modality!r}")
    for name in ("h5mu", "batches", "samples"):
        _check(content.get(name, []), TEXTS, f"its {name!r}")
    if not set(content.get("h5mu", [])) <= set(FACTS):
        raise TypeError("its 'h5mu' names what is no modality")


def _check(value: Any, shape: Any, place: str) -> None:
    """Compare with a type, a list of one shape, (str, shape of values) or a dict of what is asked for."""
    kind = shape if isinstance(shape, type) else dict if isinstance(shape, tuple) else type(shape)
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and not 0 <= value < 1 << 62):
        raise TypeError(f"{place} is {str(value)[:40]!r}")
    if isinstance(shape, list):
        for one in value:
            _check(one, shape[0], f"one of {place}")
    elif isinstance(shape, tuple):
        for one in value.values():
            _check(one, shape[1], f"a value of {place}")
    elif isinstance(shape, dict):
        for name, below in shape.items():
            _check(value.get(name), below, f"{name!r} of {place}")


def make_plan(
    samples: Sequence[Sample],
    checked: dict[str, dict[str, Any]],
    *,
    contrasts: Sequence[dict[str, str]] = (),
    columns: dict[str, str] | None = None,
    peaks: Path | None = None,
    peak_source: str | None = None,
    reference: Path | None = None,
    aliases: Path | None = None,
    min_shared_genes: float = 0.5,
    also: Callable[[pd.DataFrame | None], tuple[list[InputError], list[str]]] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Check what concerns all samples and decide where the peaks come from.

    Parameters
    ----------
    samples, checked
        Samplesheet, and :func:`read_checked`.
    contrasts
        Rows of the table of contrasts; groups are looked for in metadata and in the annotation of `.h5ad` inputs.
    columns
        Parameter → column of `obs` that it names.
    peaks, peak_source, reference, aliases, min_shared_genes
        The run's parameters.
    also
        Peaks, where they are known by now → problems and warnings of what later steps need.

    Returns
    -------
    plan
        `peak_set` (one of :data:`PEAK_SETS`), `samples` (name → modalities and where ATAC comes from), `notes`,
        `warnings`.
    peaks
        `chrom`, `start`, `end` of the peak set where it is known by now (`given`, `matrix`, `reference`), else None.

    Raises
    ------
    InputError
        All problems of all samples.
    """
    problems = [InputError(p["what"], p["why"], p["remedy"]) for check in checked.values() for p in check["problems"]]
    warnings = [f"{sample}: {text}" for sample, check in checked.items() for text in check["warnings"]]
    notes = [f"{sample}: {text}" for sample, check in checked.items() for text in check["notes"]]
    table = None

    def attempt(action) -> Any:
        try:
            return action()
        except InputError as error:
            problems.append(error)
            return None

    if reference is not None:
        table = attempt(lambda: read_reference(reference))
    if table is None:
        meant = attempt(lambda: read_aliases(aliases)) or Aliases()
        warnings += attempt(lambda: _genes(checked, min_shared_genes, meant)) or []
        found = attempt(lambda: _panels(samples, checked, meant)) or ([], [])
        warnings, notes = warnings + found[0], notes + found[1]
    annotations = _annotations(samples, checked)
    for parameter, column in (columns or {}).items():
        attempt(lambda c=column, p=parameter: _column(c, p, samples, annotations))
    problems += check_contrast_groups([Contrast(**row) for row in contrasts], samples, annotations)
    decided = attempt(lambda: _peak_set(samples, checked, peaks, peak_source, table, notes))
    if also is not None:
        found = also(None if decided is None else decided[1])
        problems, warnings = problems + found[0], warnings + found[1]
    if problems:
        unique = {str(problem): problem for problem in problems}
        raise InputError.all_of(list(unique.values()))
    peak_set, frame = decided
    if table is None:
        warnings += _unpaired(samples, checked)
    plan = {
        "peak_set": peak_set,
        "peaks": None if frame is None else len(frame),
        "samples": {
            sample.sample: {
                "modalities": [m for m in MODALITIES if m in (*sample.modalities, *_held(checked, sample))],
                "h5mu": _held(checked, sample),
                "atac": "fragments" if sample.files["fragments"] else "matrix" if sample.files["atac"] else None,
                "overlap": checked[sample.sample]["overlap"],
            }
            for sample in samples
        },
        "notes": notes,
        "warnings": warnings,
    }
    return plan, frame


def _unpaired(samples: Sequence[Sample], checked: dict[str, dict[str, Any]]) -> list[str]:
    """Tell a run in which no cell has two modalities: nothing measured then holds them together."""
    modalities = {m for sample in samples for m in (*sample.modalities, *_held(checked, sample))}
    paired = any(
        len(sample.modalities) + len(_held(checked, sample)) > 1
        and any(row["shared"] for row in checked[sample.sample]["overlap"])
        for sample in samples
    )
    if len(modalities) < 2 or paired:
        return []
    return [
        f"no cell was measured in more than one of {', '.join(sorted(modalities))}: the model has nothing to align "
        "them by, and imputed values can be plausible and wrong; add a sample with paired cells (the same barcodes in "
        "one row)"
    ]


def _held(checked: dict[str, dict[str, Any]], sample: Sample) -> list[str]:
    """Modalities that a sample's h5mu gives."""
    return list(checked[sample.sample].get("h5mu", ()))


LOSS = 0.75
"""A smaller share of the smallest sample's features that all samples have is told."""


def _genes(checked: dict[str, dict[str, Any]], min_shared: float, aliases: Aliases) -> list[str]:
    """Refuse samples that share too few genes; tell those that share few."""
    rna = {sample: check["modalities"]["rna"] for sample, check in checked.items() if "rna" in check["modalities"]}
    if len(rna) < 2:
        return []
    from multivi_nf.mosaic.features import gene_keys, has_ids

    names = {sample: unpack(facts["names"]) for sample, facts in rna.items()}
    by = "id" if all(has_ids(own) for own in names.values()) else "symbol"
    symbols = [] if by == "id" else [unpack(facts["symbols"]) for facts in rna.values()]
    keys = gene_keys(list(names.values()), symbols, by, aliases)
    shared = set(keys[0]).intersection(*keys[1:])
    sizes = [len(set(k)) for k in keys]
    check_shared(list(rna), keys, sizes, len(shared), by, min_shared)
    if len(shared) >= LOSS * min(sizes):
        return []
    told = ", ".join(f"{sample} {size:,}" for sample, size in list(zip(rna, sizes))[:6])
    return [
        f"{len(shared):,} genes are shared by all samples (by {by}; of {told}): the others are left out of the model, "
        "since not measured would be taken for 0"
    ]


def _panels(
    samples: Sequence[Sample], checked: dict[str, dict[str, Any]], aliases: Aliases
) -> tuple[list[str], list[str]]:
    """Samples of one batch must have one panel, since what was measured is known per batch; tell what panels share."""
    stained = [sample for sample in samples if "protein" in checked[sample.sample]["modalities"]]
    facts = [checked[sample.sample]["modalities"]["protein"] for sample in stained]
    names = [[n for n in unpack(f["names"]) if n not in f["isotype_controls"]] for f in facts]
    keys = protein_keys(names, aliases)
    spelled = {key: name for row, own in zip(names, keys) for name, key in zip(row, own)}
    first: dict[str, tuple[str, set[str]]] = {}
    for sample, own in zip(stained, keys):
        panel = set(own)
        if sample.naming:
            continue
        if sample.batch in first and first[sample.batch][1] != panel:
            other, known = first[sample.batch]
            raise InputError(
                f"samples {other!r} and {sample.sample!r} of batch {sample.batch!r} differ in proteins, e.g. "
                f"{min(spelled[key] for key in panel ^ known)!r}",
                "which proteins were measured is known per batch; not measured would be taken for 0",
                "give the two samples different values in the column batch",
            )
        first.setdefault(sample.batch, (sample.sample, panel))
    if len(stained) < 2:
        return [], []
    shared, every = set(keys[0]).intersection(*keys[1:]), set().union(*keys)
    notes = told_spellings(met_by_spelling(names, keys))
    if len(shared) >= LOSS * min(map(len, keys)):
        return [], notes
    told = "; ".join(f"{sample.sample} {', '.join(own[:3])}, ..." for sample, own in list(zip(stained, names))[:4])
    return [
        f"{len(shared)} of {len(every)} proteins are shared by all samples ({told}); the others stay in the model, "
        "imputed where a sample's panel lacks them; same antibodies under other names belong into --feature_aliases"
    ], notes


def _annotations(samples: Sequence[Sample], checked: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    named = any(sample.naming for sample in samples)
    for sample in samples:
        check = checked[sample.sample]
        if named:  # where one row names a column, its values and the other rows' own names are the groups
            owners = check.get("samples") or [sample.sample]
            batches = check.get("batches") or (owners if check.get("samples") else [sample.batch])
            for column, values in (("sample", owners), ("batch", batches)):
                columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
        for column, values in check["annotations"].items():
            columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
    return columns


def _column(column: str, parameter: str, samples: Sequence[Sample], annotations: dict[str, list[str]]) -> None:
    metadata = list(samples[0].metadata)
    if column not in (*metadata, *annotations, "sample", "batch", "modality"):
        raise unknown_column("samplesheet", column, [*metadata, *annotations], f"--{parameter}")


def _peak_set(
    samples: Sequence[Sample],
    checked: dict[str, dict[str, Any]],
    peaks: Path | None,
    peak_source: str | None,
    reference: pd.DataFrame | None,
    notes: list[str],
) -> tuple[str, pd.DataFrame | None]:
    """Decide by the rules of INTERFACES: reference, then peaks of matrices, then --peaks, then the peak source."""
    own = {
        s: unpack(check["modalities"]["atac"]["names"]) for s, check in checked.items() if "atac" in check["modalities"]
    }
    counted = [sample for sample in samples if sample.files["fragments"]]
    only = [sample.sample for sample in samples if sample.files["atac"] and not sample.files["fragments"]]
    alone = {name: own[name] for name in only if name in own}
    if not counted and not only:
        return "none", None
    _agree(alone)
    if reference is not None:
        wanted = reference.loc[reference["modality"] == "atac", "feature"].tolist()
        if not wanted:
            return "none", None
        for sample, names in alone.items():
            if not set(wanted) <= set(names):
                raise different_peaks("the model", wanted, sample, names)
        return "reference", _frame(wanted)
    if alone:
        frame = _frame(next(iter(alone.values())))
        if peaks is not None:
            given = read_bed(peaks)
            names = [f"{c}:{s}-{e}" for c, s, e in zip(given["chrom"], given["start"], given["end"])]
            if set(names) != set(next(iter(alone.values()))):
                raise different_peaks("--peaks", names, *next(iter(alone.items())))
        return "matrix", frame
    if peaks is not None:
        frame = read_bed(peaks)[["chrom", "start", "end"]]
        unique = frame.drop_duplicates(ignore_index=True)
        if len(unique) < len(frame):
            notes.append(f"{Path(peaks).name}: {len(frame) - len(unique)} peaks that occur twice are counted once")
        return "given", unique
    if peak_source is None and own:
        sets = list(own.values())
        if all(set(other) == set(sets[0]) for other in sets[1:]):
            return "matrix", _frame(sets[0])
        notes.append(
            "the atac matrices beside the fragments have different peaks, which are not used: peaks are called"
        )
    if peak_source == "samples":
        with_peaks = [sample.sample for sample in counted if sample.files["peaks"]]
        if not with_peaks:
            raise InputError(
                "--peak_source samples, but no row with fragments names a file in the column peaks",
                "there would be no peak to count on",
                "fill the column peaks, give --peaks BED, or use --peak_source macs3",
            )
        lacking = [sample.sample for sample in counted if not sample.files["peaks"]]
        if lacking:
            notes.append(f"{', '.join(lacking)} have no peaks of their own and are counted on the others'")
        return "samples", None
    return "macs3", None


def _agree(alone: dict[str, list[str]]) -> None:
    names = list(alone)
    for other in names[1:]:
        if set(alone[other]) != set(alone[names[0]]):
            raise different_peaks(names[0], alone[names[0]], other, alone[other])


def _frame(names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([parse_peak(name) for name in names], columns=["chrom", "start", "end"])
