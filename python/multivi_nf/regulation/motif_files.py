"""Motifs as people keep them: MEME's and JASPAR's formats."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multivi_nf.errors import Damaged, InputError, option
from multivi_nf.io.limits import DAMAGED, opened

PSEUDOCOUNT = 0.8
"""Added to each position's counts, spread evenly over the four bases (Nishida et al. 2009), as motifmatchr does."""
MOST_BYTES = 1 << 28
MOST_POSITIONS = 200
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Motif:
    """One motif.

    Attributes
    ----------
    id
        Unique, such as `MA0004.1`.
    name
        The factor, such as `Arnt`; `JUN::FOS` for a dimer.
    probabilities
        (4, width) of A, C, G, T at each position; columns sum to 1.
    """

    id: str
    name: str
    probabilities: np.ndarray

    @property
    def factors(self) -> list[str]:
        """Names of the factors: parts of a dimer apart, without variants as in `FOS(var.2)`."""
        bare = re.sub(r"\(.*?\)", "", self.name)
        return [part.strip() for part in bare.split("::") if part.strip()]


def read_motifs(path: str | Path) -> list[Motif]:
    r"""Read motifs: MEME (minimal or full), or JASPAR's counts with or without letters and brackets; plain or gzip.

    Raises
    ------
    InputError
        Not there, damaged, empty, neither format, a motif cut short or that holds what is no count, or two of one id.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("motifs.jaspar").write_text(">M1 Arnt\nA [9 0]\nC [1 0]\nG [0 10]\nT [0 0]\n")
    >>> motif = read_motifs("motifs.jaspar")[0]
    >>> motif.name, motif.probabilities.shape
    ('Arnt', (4, 2))
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist", "motifs are read from it", f"correct {option('motifs')}")
    try:
        with opened(path, most_bytes=MOST_BYTES) as source:
            lines = source.read().decode("utf-8-sig", "backslashreplace").splitlines()
    except DAMAGED as error:
        raise Damaged(
            path, f"cannot be read as text: {error}", "the file is damaged or not what it is named as"
        ) from error
    meme = any(line.startswith("MEME version") for line in lines) or any(
        line.startswith("letter-probability matrix") for line in lines
    )
    motifs = _meme(lines, path) if meme else _jaspar(lines, path)
    if not motifs:
        raise InputError(
            f"{path} holds no motif",
            "there would be nothing to look for",
            "give motifs in MEME format (MOTIF ..., letter-probability matrix ...) or JASPAR's (>MA0004.1 Arnt, then A "
            "[...], C [...], G [...], T [...])",
        )
    twice = sorted(one for one, times in Counter(motif.id for motif in motifs).items() if times > 1)
    if twice:
        raise InputError(
            f"{path} holds {len(twice)} motif ids more than once, such as {twice[0]!r}",
            "results are told apart by them",
            "give each motif an id of its own",
        )
    return motifs


def _meme(lines: list[str], path: Path) -> list[Motif]:
    motifs: list[Motif] = []
    at, head = 0, None
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if line.startswith("ALPHABET") and not re.match(r'ALPHABET\s*=?\s*"?(ACGT|DNA)', line):
            raise _wrong(path, at, f"the alphabet is {line!r}, not DNA")
        if line.startswith("MOTIF"):
            words = line.split()[1:]
            if not words:
                raise _wrong(path, at, "MOTIF without a name")
            head = (words[0], words[1] if len(words) > 1 else words[0])
        elif line.startswith("letter-probability matrix"):
            if head is None:
                raise _wrong(path, at, "a matrix before any MOTIF")
            width = re.search(r"\bw\s*=\s*([0-9]{1,6})", line)
            rows, at = _matrix(lines, at, int(width[1]) if width else None)
            if not rows or (width and len(rows) != int(width[1])):
                said = f" of {width[1]}" if width else ""
                raise _wrong(path, min(at + 1, len(lines)), f"{head[0]} has {len(rows)}{said} rows of four numbers")
            motifs.append(Motif(*head, _probabilities(np.array(rows).T, 0.0, path, at, head[0])))
            head = None
    if head is not None:
        raise _wrong(path, len(lines), f"{head[0]} has no letter-probability matrix")
    return motifs


def _matrix(lines: list[str], at: int, width: int | None) -> tuple[list[list[float]], int]:
    """Rows of four numbers, so many where a width is known, and the line after them."""
    rows: list[list[float]] = []
    while at < len(lines) and (width is None or len(rows) < width):
        numbers = _numbers(lines[at])
        if lines[at].strip() or rows:
            if numbers is None or len(numbers) != 4:
                break
            rows.append(numbers)
        at += 1
    return rows, at


def _jaspar(lines: list[str], path: Path) -> list[Motif]:
    motifs: list[Motif] = []
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        words = line[1:].split() if line.startswith(">") else []
        if not words:
            raise _wrong(path, at, f"{line[:40]!r} where a motif begins with > and its id")
        rows: list[list[float]] = []
        while at < len(lines) and len(rows) < 4:
            text = lines[at].strip()
            letter = re.match(r"([ACGTacgt])\b", text)
            numbers = _numbers(re.sub(r"^[ACGTacgt]\b|[\[\]|]", " ", text))
            if not text and not rows:
                at += 1
                continue
            if numbers is None or (letter and letter[1].upper() != "ACGT"[len(rows)]):
                break
            rows.append(numbers)
            at += 1
        if len(rows) != 4 or len({len(row) for row in rows}) != 1:
            raise _wrong(path, min(at + 1, len(lines)), f"{words[0]} has not four rows (A, C, G, T) of as many counts")
        name = " ".join(words[1:]) or words[0]
        motifs.append(Motif(words[0], name, _probabilities(np.array(rows), PSEUDOCOUNT, path, at, words[0])))
    return motifs


def _numbers(text: str) -> list[float] | None:
    """The numbers of a line; None where it holds none, or anything else."""
    words = text.replace(",", " ").split()
    return [float(word) for word in words] if words and all(re.fullmatch(_NUMBER, word) for word in words) else None


def _probabilities(values: np.ndarray, pseudocount: float, path: Path, at: int, name: str) -> np.ndarray:
    total = values.sum(axis=0)
    if values.shape[1] > MOST_POSITIONS or not np.isfinite(values).all() or (values < 0).any() or (total <= 0).any():
        raise _wrong(path, at, f"{name} holds values that are neither counts nor probabilities")
    if pseudocount and np.allclose(total, 1, atol=0.02):
        pseudocount = 0.0  # probabilities in JASPAR's layout
    if not pseudocount and not np.allclose(total, 1, atol=0.05):
        raise _wrong(path, at, f"{name}: the probabilities of a position add up to {total.min():g} to {total.max():g}")
    return (values + pseudocount / 4) / (total + pseudocount)


def _wrong(path: Path, line: int, what: str) -> InputError:
    return InputError(
        f"{path}, line {line}: {what}",
        "a motif that is read wrong is looked for wrong",
        "give motifs in MEME or JASPAR format, as jaspar.elixir.no exports them",
    )
