"""`multivi-nf group-peaks`: peaks called in each group of cells by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options, say
from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import Whole
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._regulation import FACTS_OPTION, Reads, source_options
from multivi_nf.io.outputs import files_of

FILES = files_of("group-peaks", r"[^/]+\.bed")


@dataclass(frozen=True)
class Asked:
    """Peaks of which groups, how they are called, and where they go."""

    groups: str
    donor: str
    peaks: Path | None
    width: int
    workers: int
    merged: Path
    output: Path


@click.command(cls=Step)
@click.argument("embedding", type=click.Path(path_type=Path))
@source_options
@FACTS_OPTION
@genome_options
@grouped(
    "asked",
    Asked,
    click.option("--groups", default="cluster", help="Column of obs: peaks for each of its values."),
    click.option("--donor", default="donor", help="Column of obs whose values are replicates, where there is one."),
    click.option(
        "--peaks", type=click.Path(path_type=Path), help="BED of the consensus.  [default: EMBEDDING's peaks]"
    ),
    click.option("--width", type=Whole(), default=501, help="Width of every peak, odd."),
    click.option("--workers", type=Whole(min=1), default=1, help="Groups called at a time."),
    click.option("--merged", type=OutputFile("bed"), required=True, help="BED of the consensus and all new peaks."),
    click.option("--output", type=OutputPlace(FILES), required=True, help="Folder for <group>.bed."),
)
def command(embedding: Path, reads: Reads, facts: Path | None, asked: Asked, assembly: Assembly) -> None:
    """Call peaks with MACS3 in each group of the cells of EMBEDDING, and merge what is new with the consensus."""
    from multivi_nf.io.files import scratch
    from multivi_nf.peaks import read_summits
    from multivi_nf.regulation.cells import file_name, groups_of, read_cells, read_peak_counts
    from multivi_nf.regulation.group_peaks import Calling, peaks_by_group, write_group_peaks
    from multivi_nf.regulation.possible import told_in

    with told_in(facts, "group_peaks") as found:
        genome = assembly.load_if_known()
        obs = read_cells(embedding).obs
        sources = reads.sources()
        consensus = read_peak_counts(embedding, genome)[1] if asked.peaks is None else read_summits(asked.peaks)
        with scratch(asked.merged) as work:
            calling = Calling(consensus, asked.donor, asked.width, work, asked.workers)
            made = peaks_by_group(obs, groups_of(obs, asked.groups), sources, genome, calling)
        files = {group: f"{asked.output.name}/{file_name(group)}.bed" for group in made.by_group}
        for group, table in made.by_group.items():
            write_group_peaks(asked.output.parent / files[group], table)
        write_group_peaks(asked.merged, made.merged)
        table = made.table.assign(file=made.table["group"].map(files))
        new = int(made.merged["new"].sum())
        found |= {"groups": asked.groups, "table": table.to_dict("records"), "merged": len(made.merged), "new": new}
        found["told"] = (
            f"Called in each {asked.groups} by itself; {new:,} are new beside the {len(made.merged) - new:,} modelled."
        )
        found["files"] = [asked.merged.name, *files.values()]
        for row in table.itertuples():
            say(f"{row.group}: {row.peaks} peaks, {row.new} of them new" + (f"; {row.note}" if row.note else ""))
