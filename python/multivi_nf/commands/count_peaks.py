"""`multivi-nf count-peaks`: the cells × peaks matrix of a fragments file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, Listed, genome_options, say, tell_renamed
from multivi_nf.commands._groups import grouped
from multivi_nf.commands._outputs import OutputFile, Step

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Asked(Listed):
    """Cells and peaks."""

    peaks: Path


@click.command(cls=Step)
@click.argument("fragments", type=_FILE)
@grouped(
    "asked",
    Asked,
    click.option("--peaks", type=_FILE, required=True, help="BED of peaks: the columns, in this order."),
    click.option(
        "--barcodes", type=_FILE, required=True, help="The cells, one barcode a line: the rows, in this order."
    ),
    click.option("--barcode-map", type=_FILE, help="ATAC barcode, RNA barcode; translates a list of RNA barcodes."),
)
@genome_options
@click.option(
    "--strategy",
    type=click.Choice(["fragment", "insertion", "pic"]),
    default="fragment",
    help="fragment: once per overlapped peak; insertion: each cut site in the peak; pic: once if a cut site is in it.",
)
@click.option("--output", type=OutputFile("hdf5"), required=True, help="h5ad to write.")
def command(fragments: Path, asked: Asked, strategy: str, output: Path, assembly: Assembly) -> None:
    """Count FRAGMENTS of the given cells in peaks; also gives the fraction of fragments in peaks.

    FRAGMENTS is the fragments file, or the file that `qc-fragments --kept` wrote of it. 10x fragments are already
    shifted to the cut sites and are not shifted again.
    """
    import json

    from multivi_nf.fragments.checks import outside_text
    from multivi_nf.fragments.matrix import count_peaks
    from multivi_nf.inputs.intervals import read_bed
    from multivi_nf.io.files import written_whole

    genome = assembly.load()
    counted = count_peaks(fragments, read_bed(asked.peaks), asked.read(), genome, strategy=strategy)
    facts = json.loads(counted.uns["multivi_nf"])
    tell_renamed(facts["renamed_chromosomes"]["fragments"], "fragments")
    tell_renamed(facts["renamed_chromosomes"]["peaks"], "peaks")
    if facts["peaks_past_the_end"]:
        say(f"WARNING: {outside_text(facts['peaks_past_the_end'], counted.n_vars)}")
    with written_whole(output) as temporary:
        counted.write_h5ad(temporary, compression="gzip", compression_opts=1)
    say(
        f"{counted.n_obs} cells × {counted.n_vars} peaks, {counted.X.nnz} entries, median fraction in peaks "
        f"{counted.obs['atac_frip'].median():.3f}"
        + (f"; {facts['cells_without_fragments']} cells have no fragment" if facts["cells_without_fragments"] else "")
    )
