"""`multivi-nf call-peaks`: summits of accessibility, by MACS3 on cut sites."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options, say
from multivi_nf.commands._outputs import OutputFile, Step

_FILE = click.Path(path_type=Path)


@click.command(cls=Step)
@click.argument("fragments", type=_FILE, nargs=-1, required=True)
@genome_options
@click.option("--barcodes", type=_FILE, multiple=True, help="The cells of each of FRAGMENTS.  [default: all]")
@click.option("--groups", type=_FILE, multiple=True, help="Barcode, group (TSV) of each of FRAGMENTS.")
@click.option("--output", type=OutputFile("bed"), required=True, help="BED of summits with scores, for merge-peaks.")
def command(
    fragments: tuple[Path, ...],
    barcodes: tuple[Path, ...],
    groups: tuple[Path, ...],
    output: Path,
    assembly: Assembly,
) -> None:
    """Call peaks on all FRAGMENTS together, or group by group of their cells. Needs macs3 (`make macs3`).

    FRAGMENTS may also be files that `qc-fragments --kept` wrote.
    """
    from multivi_nf.errors import InputError
    from multivi_nf.inputs.barcodes import read_barcodes
    from multivi_nf.io.files import scratch
    from multivi_nf.peaks import call_peaks, read_groups, write_summits

    for name, files in (("--barcodes", barcodes), ("--groups", groups)):
        if files and len(files) != len(fragments):
            raise InputError(
                f"{len(files)} files were given by {name} for {len(fragments)} fragments files",
                "which list belongs to which file could not be known",
                f"give {name} once for each fragments file, in the same order",
            )
    genome = assembly.load()
    inputs: list[tuple[Path, dict[str, str] | None]] = []
    for i, path in enumerate(fragments):
        cells = read_barcodes(barcodes[i]) if barcodes else None
        if groups:
            grouped = read_groups(groups[i])
            inputs.append((path, grouped if cells is None else {c: grouped[c] for c in cells if c in grouped}))
        else:
            inputs.append((path, None if cells is None else dict.fromkeys(cells, "all")))
    with scratch(output) as work:
        summits = call_peaks(inputs, genome, work=work)
    write_summits(output, summits)
    for group, n in summits.groupby("group", sort=False).size().items():
        say(f"{group}: {n} summits")
