"""The gate before all heavy steps: every sample's problems in one go, and what all samples must agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pandas as pd

from multivi_nf.counts.features import parse_peak
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import Overlap
from multivi_nf.inputs.contrasts import check_contrast_groups
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.inputs.samplesheet import Sample, unknown_column
from multivi_nf.inputs.schemas import CheckedSheet
from multivi_nf.io.records import read_record
from multivi_nf.modalities import Modality, in_order
from multivi_nf.mosaic.features import check_shared, different_peaks, read_reference, told_spellings
from multivi_nf.mosaic.names import Aliases, met_by_spelling, protein_keys, read_aliases
from multivi_nf.preflight.checked import CheckedSample, unpack

PeakSet = Literal["given", "matrix", "reference", "samples", "macs3", "none"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class PlannedSample:
    """What a run takes of a sample: its modalities, those of its h5mu, where ATAC comes from, barcodes shared."""

    modalities: list[Modality]
    h5mu: list[Modality]
    atac: Literal["fragments", "matrix"] | None
    overlap: list[Overlap]


@dataclass(frozen=True)
class Plan:
    """What a run will do, plan.json.

    Attributes
    ----------
    peak_set, peaks
        Where the peaks come from, and how many, where they are known by now.
    samples
        By name.
    notes, warnings
        What was done, what to look at.
    """

    peak_set: PeakSet
    peaks: int | None
    samples: dict[str, PlannedSample]
    notes: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Choices:
    """The run's parameters that decide on peaks and genes.

    Attributes
    ----------
    peaks, peak_source
        BED, or `samples` or `macs3`.
    reference
        Trained model whose features are used.
    aliases
        Table of spellings, see :func:`multivi_nf.mosaic.names.read_aliases`.
    min_shared_genes
        Of the smallest sample's genes.
    """

    peaks: Path | None = None
    peak_source: str | None = None
    reference: Path | None = None
    aliases: Path | None = None
    min_shared_genes: float = 0.5


Look = Callable[[pd.DataFrame | None], tuple[list[InputError], list[str]]]
"""Peaks, where they are known by now → problems and warnings of what later steps need."""


def read_checked(paths: Sequence[Path], samples: Sequence[Sample]) -> dict[str, CheckedSample]:
    """Read the preflight of every sample, in samplesheet order.

    Raises
    ------
    InputError
        A file that is no preflight, or a sample without one.
    """
    found = {one.sample: one for one in (read_record(CheckedSample, Path(path)) for path in paths)}
    missing = [sample.sample for sample in samples if sample.sample not in found]
    if missing:
        raise InputError(
            f"no preflight of {', '.join(missing)} was given", "their files were not checked", "give one per sample"
        )
    return {sample.sample: found[sample.sample] for sample in samples}


def make_plan(
    sheet: CheckedSheet, checked: dict[str, CheckedSample], choices: Choices, also: Look | None = None
) -> tuple[Plan, pd.DataFrame | None]:
    """Check what concerns all samples and decide where the peaks come from.

    Parameters
    ----------
    sheet
        The samplesheet with its contrasts, whose groups are looked for in metadata and in the annotation of `.h5ad`
        inputs.
    checked
        Of :func:`read_checked`.
    choices
        The run's parameters.
    also
        Looks at what later steps need.

    Returns
    -------
    The plan, and `chrom`, `start`, `end` of the peak set where it is known by now (`given`, `matrix`, `reference`),
    else None.

    Raises
    ------
    InputError
        All problems of all samples.
    """
    samples = sheet.samples
    problems = [InputError(one.what, one.why, one.remedy) for check in checked.values() for one in check.problems]
    warnings = [f"{sample}: {text}" for sample, check in checked.items() for text in check.warnings]
    notes = [f"{sample}: {text}" for sample, check in checked.items() for text in check.notes]

    def attempt(action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except InputError as error:
            problems.append(error)
            return None

    table = None if choices.reference is None else attempt(partial(read_reference, choices.reference))
    if table is None:
        meant = attempt(partial(read_aliases, choices.aliases)) or Aliases()
        warnings += attempt(partial(_genes, checked, choices.min_shared_genes, meant)) or []
        panels = attempt(partial(_panels, samples, checked, meant)) or ([], [])
        warnings, notes = warnings + panels[0], notes + panels[1]
    annotations = _annotations(samples, checked)
    for parameter, column in sheet.columns.items():
        attempt(partial(_column, column, parameter, samples, annotations))
    problems += check_contrast_groups(sheet.contrasts or [], samples, annotations)
    decided = attempt(partial(_peak_set, samples, checked, choices, table, notes))
    if also is not None:
        more = also(None if decided is None else decided[1])
        problems, warnings = problems + more[0], warnings + more[1]
    if problems or decided is None:
        unique = {str(problem): problem for problem in problems}
        raise InputError.all_of(list(unique.values()))
    peak_set, frame = decided
    if table is None:
        warnings += _unpaired(samples, checked)
    planned = {sample.sample: _planned(sample, checked[sample.sample]) for sample in samples}
    return Plan(peak_set, None if frame is None else len(frame), planned, notes, warnings), frame


def _planned(sample: Sample, check: CheckedSample) -> PlannedSample:
    modalities = in_order((*sample.modalities, *check.h5mu))
    atac: Literal["fragments", "matrix"] | None = "matrix" if sample.files["atac"] else None
    return PlannedSample(modalities, check.h5mu, "fragments" if sample.files["fragments"] else atac, check.overlap)


def _unpaired(samples: Sequence[Sample], checked: dict[str, CheckedSample]) -> list[str]:
    """Tell a run in which no cell has two modalities: nothing measured then holds them together."""
    held = [(sample, checked[sample.sample]) for sample in samples]
    modalities = {m for sample, check in held for m in (*sample.modalities, *check.h5mu)}
    paired = any(
        len(sample.modalities) + len(check.h5mu) > 1 and any(row.shared for row in check.overlap)
        for sample, check in held
    )
    if len(modalities) < 2 or paired:
        return []
    return [
        f"no cell was measured in more than one of {', '.join(sorted(modalities))}: the model has nothing to align "
        "them by, and imputed values can be plausible and wrong; add a sample with paired cells (the same barcodes in "
        "one row)"
    ]


LOSS = 0.75
"""A smaller share of the smallest sample's features that all samples have is told."""


def _genes(checked: dict[str, CheckedSample], min_shared: float, aliases: Aliases) -> list[str]:
    """Refuse samples that share too few genes; tell those that share few."""
    rna = {sample: check.modalities.rna for sample, check in checked.items() if check.modalities.rna is not None}
    if len(rna) < 2:
        return []
    from multivi_nf.mosaic.features import gene_keys, has_ids

    names = {sample: unpack(facts.names) for sample, facts in rna.items()}
    by = "id" if all(has_ids(own) for own in names.values()) else "symbol"
    symbols = [] if by == "id" else [unpack(facts.symbols) for facts in rna.values()]
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
    samples: Sequence[Sample], checked: dict[str, CheckedSample], aliases: Aliases
) -> tuple[list[str], list[str]]:
    """Samples of one batch must have one panel, since what was measured is known per batch; tell what panels share."""
    found = [(sample, checked[sample.sample].modalities.protein) for sample in samples]
    own = [(sample, facts) for sample, facts in found if facts is not None]
    stained = [sample for sample, _ in own]
    names = [[n for n in unpack(facts.names) if n not in facts.isotype_controls] for _, facts in own]
    keys = protein_keys(names, aliases)
    spelled = {key: name for row, keyed in zip(names, keys) for name, key in zip(row, keyed)}
    first: dict[str, tuple[str, set[str]]] = {}
    for sample, keyed in zip(stained, keys):
        panel = set(keyed)
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
    told = "; ".join(f"{sample.sample} {', '.join(row[:3])}, ..." for sample, row in list(zip(stained, names))[:4])
    return [
        f"{len(shared)} of {len(every)} proteins are shared by all samples ({told}); the others stay in the model, "
        "imputed where a sample's panel lacks them; same antibodies under other names belong into --feature_aliases"
    ], notes


def _annotations(samples: Sequence[Sample], checked: dict[str, CheckedSample]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    named = any(sample.naming for sample in samples)
    for sample in samples:
        check = checked[sample.sample]
        if named:  # where one row names a column, its values and the other rows' own names are the groups
            owners = check.samples or [sample.sample]
            batches = check.batches or (owners if check.samples else [sample.batch])
            for column, values in (("sample", owners), ("batch", batches)):
                columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
        for column, values in check.annotations.items():
            columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
    return columns


def _column(column: str, parameter: str, samples: Sequence[Sample], annotations: dict[str, list[str]]) -> None:
    metadata = list(samples[0].metadata)
    if column not in (*metadata, *annotations, "sample", "batch", "modality"):
        raise unknown_column("samplesheet", column, [*metadata, *annotations], f"--{parameter}")


def _peak_set(
    samples: Sequence[Sample],
    checked: dict[str, CheckedSample],
    choices: Choices,
    reference: pd.DataFrame | None,
    notes: list[str],
) -> tuple[PeakSet, pd.DataFrame | None]:
    """Decide by the rules of INTERFACES: reference, then peaks of matrices, then --peaks, then the peak source."""
    own = {s: unpack(check.modalities.atac.names) for s, check in checked.items() if check.modalities.atac is not None}
    counted = [sample for sample in samples if sample.files["fragments"]]
    only = [sample.sample for sample in samples if sample.files["atac"] and not sample.files["fragments"]]
    alone = {name: own[name] for name in only if name in own}
    if not counted and not only:
        return "none", None
    _agree(alone)
    if reference is not None:
        return _of_reference(reference, alone)
    if alone:
        return "matrix", _of_matrices(alone, choices.peaks)
    if choices.peaks is not None:
        frame = read_bed(choices.peaks)[["chrom", "start", "end"]]
        unique = frame.drop_duplicates(ignore_index=True)
        if len(unique) < len(frame):
            notes.append(f"{choices.peaks.name}: {len(frame) - len(unique)} peaks that occur twice are counted once")
        return "given", unique
    if choices.peak_source is None and own:
        sets = list(own.values())
        if all(set(other) == set(sets[0]) for other in sets[1:]):
            return "matrix", _frame(sets[0])
        notes.append(
            "the atac matrices beside the fragments have different peaks, which are not used: peaks are called"
        )
    if choices.peak_source == "samples":
        notes += _of_samples(counted)
        return "samples", None
    return "macs3", None


def _of_reference(reference: pd.DataFrame, alone: dict[str, list[str]]) -> tuple[PeakSet, pd.DataFrame | None]:
    wanted = reference.loc[reference["modality"] == "atac", "feature"].tolist()
    if not wanted:
        return "none", None
    for sample, names in alone.items():
        if not set(wanted) <= set(names):
            raise different_peaks("the model", wanted, sample, names)
    return "reference", _frame(wanted)


def _of_matrices(alone: dict[str, list[str]], peaks: Path | None) -> pd.DataFrame:
    first = next(iter(alone.items()))
    if peaks is not None:
        given = read_bed(peaks)
        names = [f"{c}:{s}-{e}" for c, s, e in zip(given["chrom"], given["start"], given["end"])]
        if set(names) != set(first[1]):
            raise different_peaks("--peaks", names, *first)
    return _frame(first[1])


def _of_samples(counted: Sequence[Sample]) -> list[str]:
    if not any(sample.files["peaks"] for sample in counted):
        raise InputError(
            "--peak_source samples, but no row with fragments names a file in the column peaks",
            "there would be no peak to count on",
            "fill the column peaks, give --peaks BED, or use --peak_source macs3",
        )
    lacking = [sample.sample for sample in counted if not sample.files["peaks"]]
    return [f"{', '.join(lacking)} have no peaks of their own and are counted on the others'"] if lacking else []


def _agree(alone: dict[str, list[str]]) -> None:
    names = list(alone)
    for other in names[1:]:
        if set(alone[other]) != set(alone[names[0]]):
            raise different_peaks(names[0], alone[names[0]], other, alone[other])


def _frame(names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([parse_peak(name) for name in names], columns=["chrom", "start", "end"])
