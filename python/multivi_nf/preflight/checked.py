"""What is known of a sample before a run, S.preflight.json."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from multivi_nf.errors import InputError
from multivi_nf.fragments.file_facts import FileFacts
from multivi_nf.inputs.barcodes import Overlap
from multivi_nf.io.limits import LARGEST_TABLE
from multivi_nf.io.machine import is_passing
from multivi_nf.io.records import left_out
from multivi_nf.modalities import Modality

Result = TypeVar("Result")


def pack(names: Sequence[str]) -> str:
    """Compress a list of names to text, so that a report of a few hundred thousand peaks stays small."""
    return base64.b64encode(zlib.compress(json.dumps(list(names)).encode(), 6)).decode()


def unpack(text: str) -> list[str]:
    """Read what :func:`pack` gave.

    Raises
    ------
    InputError
        It is damaged, or unpacks without end.
    """
    packer = zlib.decompressobj()
    try:
        raw = packer.decompress(base64.b64decode(text, validate=True), LARGEST_TABLE)
        names = json.loads(raw) if packer.eof else None
    except (ValueError, RecursionError, TypeError, zlib.error):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"the packed names {str(text)[:30]!r} ... of a sample's check are damaged",
            "what samples have in common cannot be told",
            "run the check of each sample (`multivi-nf preflight`) again",
        )
    return names


@dataclass(frozen=True)
class Problem:
    """An :class:`multivi_nf.errors.InputError` as it is written down, its sample and column in `what`."""

    what: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Matrix:
    """Numbers of a matrix and the names of its features, packed (:func:`pack`), with three examples."""

    cells: int
    features: int
    names: str
    examples: list[str]


@dataclass(frozen=True)
class GeneMatrix(Matrix):
    """Also its packed symbols, and the species where the names tell it."""

    symbols: str
    species: str | None


@dataclass(frozen=True)
class ProteinMatrix(Matrix):
    """Also which of its features are isotype controls."""

    isotype_controls: list[str]


@dataclass
class Matrices:
    """What the sample's files hold of each modality."""

    rna: GeneMatrix | None = left_out()
    atac: Matrix | None = left_out()
    protein: ProteinMatrix | None = left_out()


@dataclass
class CheckedSample:
    """What is known of a sample, S.preflight.json.

    Attributes
    ----------
    sample
        Its name.
    problems, warnings, notes
        What must be mended, what to look at, what was done.
    modalities
        Numbers and names of its matrices.
    h5mu
        Modalities that are read from its MuData.
    annotations
        Column of the cells' own annotation → its values.
    batches, samples
        Values of the columns that `batch_column` and `sample_column` name.
    overlap
        Barcodes shared by modalities.
    fragments
        What is known of its fragments file.
    """

    sample: str
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    modalities: Matrices = field(default_factory=Matrices)
    h5mu: list[Modality] = field(default_factory=list)
    annotations: dict[str, list[str]] = field(default_factory=dict)
    batches: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    overlap: list[Overlap] = field(default_factory=list)
    fragments: FileFacts = field(default_factory=FileFacts)

    def problem(self, column: str, error: InputError) -> None:
        """Write down what is wrong with the file in a column, each of several problems by itself."""
        for one in error.problems:
            self.problems.append(Problem(f"sample {self.sample!r}, {column}: {one.what}", one.why, one.remedy))

    def attempt(self, column: str, action: Callable[[], Result]) -> Result | None:
        """Do something; a refusal becomes a problem and None. A disk that fails is no problem of the file."""
        try:
            return action()
        except InputError as error:
            if is_passing(error):
                raise
            self.problem(column, error)
            return None
