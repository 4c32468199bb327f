"""`multivi-nf check-inputs`: all samples' problems in one go, and where the peaks come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import Finite
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.inputs.chromosomes import STYLES

if TYPE_CHECKING:
    from multivi_nf.preflight.plan import Choices, Look

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Regulation:
    """Whether to look at what --regulation needs, and what it is given."""

    regulation: bool
    genome: str | None
    chrom_sizes: Path | None
    chrom_style: str
    fasta: Path | None
    motifs: Path | None
    gtf: Path | None
    tss: Path | None

    def look(self) -> Look | None:
        """What looks at it, where it was asked for."""
        if not self.regulation:
            return None
        from multivi_nf.regulation.gate import Given, check_given

        given = asdict(self)
        del given["regulation"]
        return partial(check_given, Given(**given))


@dataclass(frozen=True)
class Written:
    """Where the plan goes, and the peaks, where they are known by now."""

    output: Path
    peaks_output: Path | None


@click.command(name="check-inputs", cls=Step)
@click.argument("checked", type=_FILE, nargs=-1, required=True)
@click.option("--samples", type=_FILE, required=True, help="samples.json of check-samplesheet.")
@grouped(
    "choices",
    "multivi_nf.preflight.plan:Choices",
    click.option("--peaks", type=_FILE, help="Peaks of the run (BED)."),
    click.option(
        "--peak-source", type=click.Choice(["macs3", "samples"]), help="Where peaks come from without --peaks."
    ),
    click.option("--reference", type=_FILE, help="Trained model whose features are used."),
    click.option(
        "--feature-aliases", "aliases", type=_FILE, help="Two columns: a name in the data, the name that is meant."
    ),
    click.option("--min-shared-genes", type=Finite(0, 1), default=0.5, help="Of the smallest sample's genes."),
)
@grouped(
    "regulation",
    Regulation,
    click.option("--regulation", is_flag=True, help="Also look at what --regulation needs: the options below."),
    click.option("--genome", help="A built-in assembly."),
    click.option("--chrom-sizes", type=_FILE, help="Names and lengths of chromosomes; wins over --genome."),
    click.option("--chrom-style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1."),
    click.option("--fasta", type=_FILE, help="Sequence of the genome."),
    click.option("--motifs", type=_FILE, help="Motifs in MEME or JASPAR format."),
    click.option("--gtf", type=_FILE, help="Gene annotation (GTF or GFF3)."),
    click.option("--tss", type=_FILE, help="Transcription start sites as BED."),
)
@grouped(
    "written",
    Written,
    click.option("--output", type=OutputFile("json"), required=True, help="plan.json."),
    click.option("--peaks-output", type=OutputFile("bed"), help="BED of the peak set, where it is known by now."),
)
def command(
    checked: tuple[Path, ...], samples: Path, choices: Choices, regulation: Regulation, written: Written
) -> None:
    """Gather CHECKED (S.preflight.json of every sample); stop if any has a problem, else write the plan."""
    from multivi_nf.inputs.schemas import CheckedSheet
    from multivi_nf.io.records import read_record, write_record
    from multivi_nf.io.tables import write_bed
    from multivi_nf.preflight.plan import make_plan, read_checked

    sheet = read_record(CheckedSheet, samples)
    plan, frame = make_plan(sheet, read_checked(checked, sheet.samples), choices, regulation.look())
    if frame is not None and written.peaks_output is not None:
        write_bed(frame, written.peaks_output)
    write_record(plan, written.output)
    for warning in plan.warnings:
        click.echo(f"WARNING: {warning}", err=True)
    for note in plan.notes:
        click.echo(f"  {note}", err=True)
    click.echo(f"{len(sheet.samples)} sample(s) are fit to run; peaks: {plan.peak_set}", err=True)
