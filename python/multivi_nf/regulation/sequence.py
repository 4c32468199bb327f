"""The bases of peaks, out of a FASTA of the genome read once from beginning to end; no index is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pandas as pd
from isal import igzip
from isal.igzip_lib import IsalError

from multivi_nf.errors import Damaged, InputError, option
from multivi_nf.inputs.chromosomes import harmonise, wrong_assembly
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
_DAMAGED = (*DAMAGED, cast("type[Exception]", IsalError))  # whose stub takes it for an instance


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
        How chromosome names may differ; see :func:`multivi_nf.inputs.chromosomes.harmonise`.

    Raises
    ------
    InputError
        No FASTA or a damaged one, none of the peaks' chromosomes in it, or peaks past the ends of its sequences.
    """
    fasta = Path(fasta)
    rows_of = peaks.groupby("chrom", sort=False).indices
    start, end = peaks["start"].to_numpy(), peaks["end"].to_numpy()
    bases: list[np.ndarray | None] = [None] * len(peaks)
    names, past = list(_contig_lengths(fasta)), np.zeros(len(peaks), dtype=bool)
    mapping = harmonise(names, rows_of, style)
    if not mapping:
        raise no_chromosome(fasta, "the peaks'", list(rows_of), names)
    for name, text in _contigs(fasta, wanted=set(mapping)):
        rows = rows_of[mapping[name]]
        whole = np.frombuffer(text, np.uint8)
        _check_letters(fasta, name, text)
        for row in rows:
            past[row] = end[row] > len(whole)
            if not past[row]:
                bases[row] = _CODE[whole[start[row] : end[row]]]
    past_their_ends(fasta, peaks, past)
    missing = tuple(str(chrom) for chrom in rows_of if chrom not in set(mapping.values()))
    return Sequences(bases, missing, {name: to for name, to in mapping.items() if name != to})


def without_bases(n: int, missing: list[str]) -> str:
    """Say how many peaks the FASTA has no bases of, as a sentence behind others; "" where there is none."""
    shown = f" ({', '.join(missing[:3])})" if missing else ""
    return f" {n:,} peaks have no bases in the FASTA{shown}." if n else ""


def no_chromosome(fasta: Path, whose: str, wanted: list[str], names: list[str]) -> InputError:
    """Tell that a FASTA holds other chromosomes than those wanted."""
    return InputError(
        f"{fasta} holds none of {whose} chromosomes ({', '.join(map(str, wanted[:3]))}, ...), but "
        f"{', '.join(names[:3])}, ...",
        "no peak would have a sequence",
        f"give the genome that the fragments were aligned to ({option('fasta')}); chr1 and 1 are taken as the same",
    )


def past_their_ends(fasta: Path, peaks: pd.DataFrame, past: np.ndarray) -> None:
    """Refuse a FASTA in which too many peaks lie past the end of their sequence.

    Parameters
    ----------
    fasta
        For the message.
    peaks
        `chrom`, `start`, `end`.
    past
        (n_peaks,) whether each does.
    """
    if not wrong_assembly(int(past.sum()), len(peaks)):
        return
    row = peaks.iloc[int(np.flatnonzero(past)[0])]
    raise InputError(
        f"{fasta}: the peak {row['chrom']}:{row['start']}-{row['end']} lies past the end of its sequence, as do "
        f"{int(past.sum())} of {len(peaks)}",
        "the FASTA is of another assembly, or cut; bases would be those of other places",
        "give the FASTA of the assembly that the fragments were aligned to",
    )


def contig_lengths(fasta: str | Path) -> dict[str, int]:
    """Give the length of each sequence (bp), in order; the file is read once to its end, and its letters looked at.

    Raises
    ------
    InputError
        Not there, damaged, no FASTA, letters that are no nucleotides, or two sequences of one name.
    """
    return _contig_lengths(Path(fasta), letters=True)


def _contig_lengths(fasta: Path, letters: bool = False) -> dict[str, int]:
    if not fasta.is_file():
        raise InputError(f"{fasta} does not exist", "the bases of peaks are read from it", f"correct {option('fasta')}")
    lengths: dict[str, int] = {}
    for name, piece in _parts(fasta):
        if piece:
            lengths[name] += len(piece)
            if letters:
                _check_letters(fasta, name, piece)
        elif name in lengths:
            raise InputError(
                f"{fasta} holds the sequence {name!r} more than once",
                "which of them a peak lies on could not be known",
                "keep one of each name",
            )
        else:
            lengths[name] = 0
    return lengths


def _contigs(fasta: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Give (name, bases in one piece) of each wanted sequence, one in memory at a time."""
    last: str | None = None
    pieces: list[bytes] = []
    for name, piece in _parts(fasta):
        if not piece and last in wanted:
            yield last, b"".join(pieces)
        if not piece:
            last, pieces = name, []
        elif name in wanted:
            pieces.append(piece)
    if last in wanted:
        yield last, b"".join(pieces)


def _parts(fasta: Path) -> Iterator[tuple[str, bytes]]:
    """Give (name, b"") where a sequence begins, then (name, some of its bases) until its end."""
    name: str | None = None
    try:
        with _opened(fasta) as source:
            for piece, head in _pieces(source, fasta):
                if head is not None:
                    words = head.split()
                    name = words[0].decode("utf-8", "backslashreplace") if words else ""
                elif name is None:
                    raise _no_fasta(fasta, f"begins with {piece[:20]!r} where a FASTA begins with >")
                yield name, piece
    except _DAMAGED as error:
        raise Damaged(
            fasta, f"cannot be read to its end: {error}", "bases of peaks behind that place are missing"
        ) from error
    if name is None:
        raise _no_fasta(fasta, "is empty")


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
            if b"\0" in bare:  # a hole of the disk may be a terabyte
                raise _no_fasta(fasta, "holds zeros, which are no nucleotides")
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
