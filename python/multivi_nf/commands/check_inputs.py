"""`multivi-nf check-inputs`: all samples' problems in one go, and where the peaks come from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from multivi_nf.commands._numbers import Finite
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.inputs.chromosomes import STYLES

_FILE = click.Path(path_type=Path)


@click.command(name="check-inputs", cls=Step)
@click.argument("checked", type=_FILE, nargs=-1, required=True)
@click.option("--samples", type=_FILE, required=True, help="samples.json of check-samplesheet.")
@click.option("--peaks", type=_FILE, help="Peaks of the run (BED).")
@click.option("--peak-source", type=click.Choice(["macs3", "samples"]), help="Where peaks come from without --peaks.")
@click.option("--reference", type=_FILE, help="Trained model whose features are used.")
@click.option("--feature-aliases", type=_FILE, help="Two columns: a name in the data, the name that is meant.")
@click.option("--min-shared-genes", type=Finite(0, 1), default=0.5, help="Of the smallest sample's genes.")
@click.option("--regulation", is_flag=True, help="Also look at what --regulation needs: the options below.")
@click.option("--genome", help="A built-in assembly.")
@click.option("--chrom-sizes", type=_FILE, help="Names and lengths of chromosomes; wins over --genome.")
@click.option("--chrom-style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1.")
@click.option("--fasta", type=_FILE, help="Sequence of the genome.")
@click.option("--motifs", type=_FILE, help="Motifs in MEME or JASPAR format.")
@click.option("--gtf", type=_FILE, help="Gene annotation (GTF or GFF3).")
@click.option("--tss", type=_FILE, help="Transcription start sites as BED.")
@click.option("--output", type=OutputFile("json"), required=True, help="plan.json.")
@click.option("--peaks-output", type=OutputFile("bed"), help="BED of the peak set, where it is known by now.")
def command(
    checked: tuple[Path, ...],
    samples: Path,
    peaks: Path | None,
    peak_source: str | None,
    reference: Path | None,
    feature_aliases: Path | None,
    min_shared_genes: float,
    regulation: bool,
    output: Path,
    peaks_output: Path | None,
    **given: Any,
) -> None:
    """Gather CHECKED (S.preflight.json of every sample); stop if any has a problem, else write the plan."""
    from multivi_nf.inputs.schemas import CheckedSheet
    from multivi_nf.io.records import read_record, write_record
    from multivi_nf.io.tables import write_bed
    from multivi_nf.preflight.plan import Choices, make_plan, read_checked

    sheet = read_record(CheckedSheet, samples)
    look = None
    if regulation:
        from multivi_nf.regulation.gate import Given, check_given

        look = partial(check_given, Given(**given))
    choices = Choices(peaks, peak_source, reference, feature_aliases, min_shared_genes)
    plan, frame = make_plan(sheet, read_checked(checked, sheet.samples), choices, look)
    if frame is not None and peaks_output is not None:
        write_bed(frame, peaks_output)
    write_record(plan, output)
    for warning in plan.warnings:
        click.echo(f"WARNING: {warning}", err=True)
    for note in plan.notes:
        click.echo(f"  {note}", err=True)
    click.echo(f"{len(sheet.samples)} sample(s) are fit to run; peaks: {plan.peak_set}", err=True)
