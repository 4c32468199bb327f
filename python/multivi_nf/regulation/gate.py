"""What `--regulation` needs, looked at before any heavy step: wrong files are refused, missing ones told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.inputs.chromosomes import SIZES, harmonise, is_mitochondrial
from multivi_nf.inputs.intervals import read_chrom_sizes
from multivi_nf.io.machine import is_passing
from multivi_nf.regulation.find_links import gene_places
from multivi_nf.regulation.find_motifs import held_motifs, need_sequence
from multivi_nf.regulation.motif_files import read_motifs
from multivi_nf.regulation.possible import NotPossible
from multivi_nf.regulation.sequence import contig_lengths, no_chromosome, past_their_ends


@dataclass(frozen=True)
class Given:
    """What a run is given for regulation.

    Attributes
    ----------
    genome, chrom_sizes, chrom_style
        The assembly, as its parameters say.
    fasta, motifs, gtf, tss
        Files, or None.
    """

    genome: str | None = None
    chrom_sizes: Path | None = None
    chrom_style: str = "auto"
    fasta: Path | None = None
    motifs: Path | None = None
    gtf: Path | None = None
    tss: Path | None = None


def check_given(given: Given, peaks: pd.DataFrame | None) -> tuple[list[InputError], list[str]]:
    """Look at sequence, motifs and genes; the sequence is read once to its end.

    Parameters
    ----------
    given
        Files and assembly.
    peaks
        `chrom`, `start`, `end` where they are known before any are called, else None.

    Returns
    -------
    Problems, for which the run must not start; and what will not be made, for want of what.
    """
    problems: list[InputError] = []
    warnings: list[str] = []

    def attempt(part: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except NotPossible as error:
            warnings.append(f"--regulation: no {part}: {error.what} ({error.why}). What to do: {error.remedy}")
        except InputError as error:
            if is_passing(error):
                raise
            problems.append(error)
        return None

    if (motifs := given.motifs) is not None:
        attempt("motifs", lambda: read_motifs(motifs))
    fasta = attempt("motifs", lambda: need_sequence(given.fasta))
    if fasta is not None:
        if given.motifs is None:
            attempt("motifs", held_motifs)
        lengths = attempt("motifs", lambda: contig_lengths(fasta))
        sizes = attempt("motifs", lambda: _sizes(given))
        if lengths is not None:
            warnings += attempt("motifs", lambda: _compare(fasta, given.chrom_style, lengths, sizes, peaks)) or []
    attempt("links", lambda: gene_places(given.genome, given.gtf, given.tss))
    if given.gtf is None and given.genome not in SIZES and given.tss is not None:
        warnings.append("--regulation: no gene activity: start sites have no bodies of genes. What to do: give --gtf")
    return problems, warnings


def _sizes(given: Given) -> dict[str, int] | None:
    if given.chrom_sizes is not None:
        return read_chrom_sizes(given.chrom_sizes)
    return SIZES.get(given.genome or "")


def _compare(
    fasta: Path, style: str, lengths: dict[str, int], sizes: dict[str, int] | None, peaks: pd.DataFrame | None
) -> list[str]:
    """Refuse a sequence of another assembly; tell chromosomes that it lacks or has otherwise."""
    warnings: list[str] = []
    if sizes is not None:
        mapping = harmonise(lengths, sizes, style)
        if not mapping:
            raise no_chromosome(fasta, "the genome's", list(sizes), list(lengths))
        nuclear = [name for name in mapping if not is_mitochondrial(name)]
        other = [name for name in nuclear if lengths[name] != sizes[mapping[name]]]
        told = "; ".join(f"{name} has {lengths[name]:,} bases, not {sizes[mapping[name]]:,}" for name in other[:3])
        if 2 * len(other) > len(nuclear):
            raise InputError(
                f"{fasta} is of another assembly: {told} ({len(other)} of {len(nuclear)} chromosomes differ)",
                "bases of peaks would be those of other places",
                "give the FASTA of the assembly that --genome or --chrom_sizes names",
            )
        if other:
            warnings.append(f"--fasta: {told}")
    if peaks is not None:
        chroms = list(dict.fromkeys(peaks["chrom"]))
        mapping = harmonise(lengths, chroms, style)
        if not mapping:
            raise no_chromosome(fasta, "the peaks'", chroms, list(lengths))
        length = peaks["chrom"].map({to: lengths[name] for name, to in mapping.items()})
        past_their_ends(fasta, peaks, (peaks["end"] > length).to_numpy())
        lacking = [chrom for chrom in chroms if chrom not in set(mapping.values())]
        if lacking:
            n = int(peaks["chrom"].isin(lacking).sum())
            warnings.append(f"--fasta lacks {', '.join(lacking[:5])}: {n:,} peaks have no bases and hold no motif")
    return warnings
