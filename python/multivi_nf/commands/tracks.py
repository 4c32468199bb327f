"""`multivi-nf tracks`: accessibility of each group along the genome, as bigWig."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options, say
from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import Whole
from multivi_nf.commands._outputs import OutputPlace, Step
from multivi_nf.commands._regulation import FACTS_OPTION, Reads, source_options
from multivi_nf.io.outputs import files_of

FILES = files_of("tracks", r"[^/]+\.bw")


@dataclass(frozen=True)
class Asked:
    """Tracks of which groups, how fine, and where."""

    groups: str
    bin_size: int
    output: Path


@click.command(cls=Step)
@click.argument("embedding", type=click.Path(path_type=Path))
@source_options
@FACTS_OPTION
@genome_options
@grouped(
    "asked",
    Asked,
    click.option("--groups", default="cluster", help="Column of obs: a track for each of its values."),
    click.option("--bin-size", type=Whole(min=1), default=10, help="bp of a step."),
    click.option("--output", type=OutputPlace(FILES), required=True, help="Folder for <group>.bw."),
)
def command(embedding: Path, reads: Reads, facts: Path | None, asked: Asked, assembly: Assembly) -> None:
    """Write a bigWig for each group of the cells of EMBEDDING: their cut sites per million of the group's, by bins."""
    from multivi_nf.regulation.cells import groups_of, read_cells
    from multivi_nf.regulation.possible import told_in
    from multivi_nf.regulation.tracks import write_tracks

    with told_in(facts, "tracks") as found:
        genome = assembly.load_if_known()
        named = groups_of(read_cells(embedding).obs, asked.groups)
        sources = reads.sources()
        table = write_tracks(named, sources, genome, asked.output, bin_size=asked.bin_size)
        table["file"] = [name and f"{asked.output.name}/{name}" for name in table["file"]]
        found |= {"groups": asked.groups, "bin_size": asked.bin_size, "table": table.to_dict("records")}
        found["told"] = (
            f"Cut sites in bins of {asked.bin_size} bp, per million of the group's, a bigWig for each {asked.groups}."
        )
        found["files"] = [name for name in table["file"] if name]
        for row in table.itertuples():
            say(f"{row.group}: {row.cells} cells, {row.insertions} cut sites" + ("" if row.file else ": no track"))
