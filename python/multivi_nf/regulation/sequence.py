"""The bases of peaks, out of a FASTA of the genome read once from beginning to end; no index is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from isal import igzip, isal_zlib

from multivi_nf.errors import InputError
from multivi_nf.inputs.genome import harmonise, wrong_assembly
from multivi_nf.io.limits import DAMAGED, is_gzip

BLOCK = 1 << 24
LONGEST_NAME = 1 << 16
LETTERS = b"ACGTUNRYSWKMBDHV"
"""IUPAC's codes of nucleotides."""
_CODE = np.full(256, 4, dtype=np.uint8)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = np.arange(4)
_CODE[np.frombuffer(b"acgt", np.uint8)] = np.arange(4)
_CODE[np.frombuffer(b"Uu", np.uint8)] = 3
UNKNOWN = 4


@dataclass
class Sequences:
    """Bases of peaks.

    Attributes
    ----------
    bases
        Of each peak, uint8 0 to 3 for A, C, G, T and 4 for anything else; None where the FASTA does not have it.
    missing
        Chromosomes of peaks that the FASTA lacks.
    renamed
        Name in the FASTA → name of the peaks, where they differ.
    """

    bases: list[np.ndarray | None]
    missing: tuple[str, ...]
    renamed: dict[str, str]

    @property
    def known(self) -> np.ndarray:
        """(n_peaks,) whether the peak's bases are known."""
        return np.array([bases is not None for bases in self.bases], dtype=bool)

    def gc(self) -> np.ndarray:
        """(n_peaks,) share of G and C among A, C, G and T; NaN where there is none of these."""
        result = np.full(len(self.bases), np.nan)
        for k, bases in enumerate(self.bases):
            counts = np.bincount(bases, minlength=5)[:4] if bases is not None else np.zeros(4)
            if counts.sum():
                result[k] = counts[1:3].sum() / counts.sum()
        return result


def peak_sequences(fasta: str | Path, peaks: pd.DataFrame, style: str = "auto") -> Sequences:
    """Read the bases of peaks.

    Parameters
    ----------
    fasta
        Genome as FASTA, plain, gzip or bgzip; lower case (masked) is read as upper. No index is needed.
    peaks
        `chrom`, `start`, `end`, 0-based half-open.
    style
        How chromosome names may differ; see :func:`multivi_nf.inputs.genome.harmonise`.

    Raises
    ------
    InputError
        No FASTA or a damaged one, none of the peaks' chromosomes in it, or peaks past the ends of its sequences.
    """
    fasta = Path(fasta)
    if not fasta.is_file():
        raise InputError(f"{fasta} does not exist", "the bases of peaks are read from it", "correct --fasta")
    rows_of = peaks.groupby("chrom", sort=False).indices
    start, end = peaks["start"].to_numpy(), peaks["end"].to_numpy()
    bases: list[np.ndarray | None] = [None] * len(peaks)
    names, past = _names(fasta), np.zeros(len(peaks), dtype=bool)
    mapping = harmonise(names, rows_of, style)
    if not mapping:
        raise InputError(
            f"{fasta} holds none of the peaks' chromosomes ({', '.join(map(str, list(rows_of)[:3]))}, ...), but "
            f"{', '.join(names[:3])}, ...",
            "no peak would have a sequence",
            "give the genome that the fragments were aligned to (--fasta); chr1 and 1 are taken as the same",
        )
    for name, text in _contigs(fasta, wanted=set(mapping)):
        if name not in mapping:
            continue
        rows = rows_of[mapping[name]]
        whole = np.frombuffer(text, np.uint8)
        _check_letters(fasta, name, text)
        for row in rows:
            past[row] = end[row] > len(whole)
            if not past[row]:
                bases[row] = _CODE[whole[start[row] : end[row]]]
    if wrong_assembly(int(past.sum()), len(peaks)):
        row = int(np.flatnonzero(past)[0])
        raise InputError(
            f"{fasta}: the peak {peaks['chrom'].iloc[row]}:{start[row]}-{end[row]} lies past the end of its sequence, "
            f"as do {int(past.sum())} of {len(peaks)}",
            "the FASTA is of another assembly, or cut; bases would be those of other places",
            "give the FASTA of the assembly that the fragments were aligned to",
        )
    missing = tuple(str(chrom) for chrom in rows_of if chrom not in set(mapping.values()))
    return Sequences(bases, missing, {name: to for name, to in mapping.items() if name != to})


def _names(fasta: Path) -> list[str]:
    """Names of the sequences, in order; refuses what is no FASTA."""
    names = [name for name, _ in _contigs(fasta, wanted=set())]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(
            f"{fasta} holds the sequence {twice[0]!r} more than once",
            "which of them a peak lies on could not be known",
            "keep one of each name",
        )
    return names


def _contigs(fasta: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Give (name, bases in one piece) of each sequence, one in memory at a time; those not wanted without bases."""
    name: str | None = None
    parts: list[bytes] = []
    try:
        with _opened(fasta) as source:
            for piece, head in _pieces(source, fasta):
                if head is not None:
                    if name is not None:
                        yield name, b"".join(parts)
                    words = head.split()
                    name, parts = (words[0].decode("utf-8", "backslashreplace") if words else ""), []
                elif name is None:
                    raise _no_fasta(fasta, f"begins with {piece[:20]!r} where a FASTA begins with >")
                elif name in wanted:
                    parts.append(piece)
    except (*DAMAGED, isal_zlib.error) as error:
        raise InputError(
            f"{fasta} cannot be read to its end: {error}",
            "bases of peaks behind that place are missing",
            "copy or download it again; compare its checksum",
        ) from error
    if name is None:
        raise _no_fasta(fasta, "is empty")
    yield name, b"".join(parts)


def _pieces(source: BinaryIO, fasta: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """Split into (bases without line ends, None) and (b"", header)."""
    rest, at_line = b"", True
    while block := source.read(BLOCK):
        block, rest = rest + block, b""
        while block:
            if at_line and block.startswith(b">"):
                stop = block.find(b"\n")
                if stop < 0:
                    if len(block) > LONGEST_NAME:
                        raise _no_fasta(fasta, f"has a header of more than {LONGEST_NAME:,} bytes")
                    rest = block
                    break
                yield b"", block[1:stop]
                block = block[stop + 1 :]
                continue
            stop = block.find(b"\n>")
            piece, block, at_line = (
                (block, b"", block.endswith(b"\n")) if stop < 0 else (block[:stop], block[stop + 1 :], True)
            )
            bare = piece.translate(None, b"\r\n \t")
            if bare:
                yield bare, None
    if rest:
        yield b"", rest[1:]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with igzip.open(path, "rb") if is_gzip(path) else path.open("rb") as source:
        yield source


def _check_letters(fasta: Path, name: str, text: bytes) -> None:
    strange = text.translate(None, LETTERS + LETTERS.lower() + b"-.*")
    if strange:
        raise _no_fasta(fasta, f"holds {strange[:5]!r} in {name!r}, which are no nucleotides")


def _no_fasta(fasta: Path, what: str) -> InputError:
    return InputError(
        f"{fasta} {what}",
        "the bases of peaks are read from it",
        "give the genome's nucleotides as FASTA, plain or gzip (2bit: twoBitToFa)",
    )
