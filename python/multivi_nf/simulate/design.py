"""What is simulated: sizes, samples, and who measured what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from multivi_nf.errors import InputError

MITOCHONDRIAL_GENES = 5
ISOTYPES = 2


@dataclass(frozen=True)
class Sample:
    """One row of the samplesheet.

    Attributes
    ----------
    name, site, donor
        `site` is written to the samplesheet as the batch; `donor` is metadata.
    share
        Share of all cells.
    rna
        None, `h5` or `mtx`.
    atac
        Whether fragments are measured; `cells` says how the cells are told from background.
    cells
        `rna` (the RNA barcodes), `map` (the RNA barcodes through a barcode map), `list` (a barcodes file),
        `call` (nothing: they are to be called).
    protein
        Whether surface proteins are measured (in the same h5 as RNA).
    """

    name: str
    site: str
    donor: str
    share: float
    rna: str | None = None
    atac: bool = False
    cells: str = "rna"
    protein: bool = False


SAMPLES = (
    Sample("multiome_1", "site_1", "donor_1", 0.20, rna="h5", atac=True),
    Sample("multiome_2", "site_2", "donor_2", 0.18, rna="h5", atac=True, cells="map"),
    Sample("rna_1", "site_1", "donor_3", 0.15, rna="h5"),
    Sample("rna_2", "site_2", "donor_4", 0.12, rna="mtx"),
    Sample("atac_1", "site_1", "donor_3", 0.14, atac=True, cells="list"),
    Sample("atac_2", "site_2", "donor_4", 0.11, atac=True, cells="call"),
    Sample("cite_1", "site_1", "donor_1", 0.10, rna="h5", protein=True),
)


@dataclass(frozen=True)
class Options:
    """Sizes and difficulty of a simulated mosaic.

    Attributes
    ----------
    cells, genes, peaks, proteins
        Numbers over all samples; `genes` counts five mitochondrial ones, `proteins` two isotype controls.
    fragments
        Write fragments (default) or, for speed, a 10x h5 of peaks per sample.
    rna_counts, atac_fragments
        Median RNA counts and unique fragments of a cell.
    called_depth
        How many times deeper in fragments a sample is whose cells are to be called, so that most pass the usual
        floor of 1,000 fragments.
    effect, batch_effect
        Strength of cell-type effects and of site effects (s.d. of log fold changes).
    ambient_barcodes
        Background barcodes in a fragments file, for every cell.
    regulation
        Plant links between genes and peaks, and factors with motifs; write the genome's sequence and the motifs.
    """

    cells: int = 2000
    genes: int = 800
    peaks: int = 8000
    proteins: int = 20
    fragments: bool = True
    seed: int = 0
    rna_counts: float = 1000.0
    atac_fragments: float = 540.0
    called_depth: float = 3.0
    effect: float = 1.2
    batch_effect: float = 0.33
    ambient_barcodes: int = 2
    regulation: bool = False

    def __post_init__(self) -> None:
        floors = {"cells": 70, "genes": 50, "peaks": 100, "proteins": ISOTYPES + 2}
        problems = [
            InputError(
                f"--{name} {getattr(self, name)} is less than {floor}",
                "seven samples with nine cell types and their markers need at least that many",
                f"give --{name} {floor} or more",
            )
            for name, floor in floors.items()
            if getattr(self, name) < floor
        ]
        if problems:
            raise InputError.all_of(problems)

    def resized(self, **sizes: Any) -> Options:
        """The same options with those of `sizes` that are not None put in."""
        return replace(self, **{name: value for name, value in sizes.items() if value is not None})


PRESETS = {
    "default": Options(),
    "test": Options(
        cells=280,
        genes=160,
        peaks=900,
        proteins=8,
        rna_counts=800.0,
        atac_fragments=360.0,
        called_depth=5.5,
        effect=2.2,
    ),
}
