"""Options and small helpers that the steps on fragments share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.inputs.chromosomes import SIZES, STYLES
from multivi_nf.inputs.genome import Genome, load_genome

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Assembly:
    """What a step is told of the genome: a built-in one by name, or files."""

    genome: str | None
    chrom_sizes: Path | None
    tss: Path | None
    gtf: Path | None
    blacklist: Path | None
    chrom_style: str
    mito_contig: str | None

    def load(self) -> Genome:
        """Read it, and tell what is odd about its files."""
        files = (self.chrom_sizes, self.tss, self.gtf, self.blacklist)
        genome = load_genome(self.genome, *files, chrom_style=self.chrom_style, mito_contig=self.mito_contig)
        for note in genome.notes:
            say(f"WARNING: {note}")
        return genome

    def load_if_known(self) -> Genome:
        """Read it; without one the step is not possible, rather than wrong."""
        from multivi_nf.regulation.possible import NotPossible

        if not self.genome and self.chrom_sizes is None:
            raise NotPossible(
                "no genome is known",
                "places in it mean nothing without the chromosomes",
                "give --genome, or --chrom_sizes FILE",
            )
        return self.load()


genome_options = grouped(
    "assembly",
    Assembly,
    click.option("--genome", help=f"A built-in assembly: {', '.join(SIZES)}."),
    click.option("--chrom-sizes", type=_FILE, help="Names and lengths of chromosomes; wins over --genome."),
    click.option("--tss", type=_FILE, help="Transcription start sites as BED."),
    click.option("--gtf", type=_FILE, help="Gene annotation (GTF or GFF3) to take transcription start sites from."),
    click.option("--blacklist", type=_FILE, help="BED of regions to leave out."),
    click.option("--chrom-style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1."),
    click.option("--mito-contig", help="Mitochondrial chromosomes, by commas.  [default: known by their names]"),
)
"""Add --genome, --chrom-sizes, --tss, --gtf, --blacklist, --chrom-style and --mito-contig: `assembly`."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The cells of a sample, where a list names them."""

    sample: str = ""
    barcodes: Path | None = None
    rna: Path | None = None
    barcode_map: Path | None = None

    def read(self) -> list[str]:
        """Their barcodes as the fragments have them; none without a list."""
        from multivi_nf.fragments.cells import to_atac
        from multivi_nf.inputs.barcodes import read_barcode_map, read_barcodes

        cells: list[str] = []
        if self.barcodes is not None:
            cells = read_barcodes(self.barcodes)
        elif self.rna is not None:
            from multivi_nf.counts.read import read_counts

            cells = read_counts(self.rna, "rna").obs_names.tolist()
        if cells and self.barcode_map is not None:
            cells, n_translated = to_atac(cells, read_barcode_map(self.barcode_map))
            say(f"{n_translated} of {len(cells)} listed barcodes were translated by {self.barcode_map.name}")
        return cells


def say(line: str) -> None:
    """Tell the user something on stderr."""
    click.echo(line, err=True)


def tell_renamed(renamed: dict[str, str], what: str) -> None:
    """Say which chromosome names were mapped, since the user did not write them so."""
    if renamed:
        shown = ", ".join(f"{name} → {target}" for name, target in list(renamed.items())[:3])
        more = ", ..." if len(renamed) > 3 else ""
        say(f"{what}: {len(renamed)} chromosome name(s) mapped to the genome's ({shown}{more})")
