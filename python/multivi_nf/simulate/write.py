"""Write a simulated mosaic in the formats that real tools write."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole
from multivi_nf.io.outputs import check_folder
from multivi_nf.io.tables import write_bed
from multivi_nf.simulate.cells import SampleCells, barcodes, draw_cells
from multivi_nf.simulate.counts import peak_hits, peak_matrix, protein_counts, rna_counts
from multivi_nf.simulate.design import ISOTYPES, Options
from multivi_nf.simulate.fragments import Hits, draw_fragments, write_fragments
from multivi_nf.simulate.regulation import plant, write_regulation
from multivi_nf.simulate.truth import write_truth, writer
from multivi_nf.simulate.world import DISCRETE, STATES, World, build_world

COLUMNS = ("sample", "rna", "fragments", "atac", "protein", "peaks", "barcodes", "barcode_map", "batch", "donor")


def simulate(options: Options, outdir: str | Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Simulate a mosaic and write it.

    Parameters
    ----------
    options
        Sizes and difficulty.
    outdir
        A folder that does not exist yet, or is empty.
    say
        Called with one line for each sample written.

    Returns
    -------
    The samplesheet's path. Beside it: one folder a sample, `genome/` (chrom.sizes, tss.bed, genes.gtf,
    blacklist.bed; with `regulation` genome.fa, motifs.meme), `contrasts.csv`, `markers.txt`, `marker_sets.tsv` and
    `truth/`.

    Raises
    ------
    InputError
        `outdir` exists and is not empty.
    """
    outdir = Path(outdir)
    check_folder(outdir, None, "--outdir")
    if outdir.exists() and (not outdir.is_dir() or any(outdir.iterdir())):
        raise InputError(
            f"--outdir {outdir} exists and is not an empty folder",
            "files of two simulations would be mixed, and truth/ would belong to one of them only",
            "give another folder, or remove this one",
        )
    with written_whole(outdir) as temporary:
        temporary.mkdir()
        world = build_world(options)
        planted = plant(world, options)
        write_genome(temporary / "genome", world)
        groups = draw_cells(options)
        rows = []
        for index, group in enumerate(groups):
            rows.append(write_sample(temporary, world, group, options, index))
            say(f"{group.sample.name}: {len(group.cells)} cells")
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary / "samplesheet.csv", index=False)
        write_requests(temporary, world)
        write_truth(temporary / "truth", world, groups)
        if planted is not None:
            write_regulation(temporary, world, planted, options.seed)
        said = {name: value for name, value in asdict(options).items() if name != "regulation" or value}
        (temporary / "truth" / "options.json").write_text(json.dumps(said, indent=1) + "\n")
    return outdir / "samplesheet.csv"


def write_sample(outdir: Path, world: World, group: SampleCells, options: Options, index: int) -> dict[str, str]:
    """Write one sample's inputs; give its row of the samplesheet, paths relative to it."""
    sample, name = group.sample, group.sample.name
    folder = outdir / name
    folder.mkdir()
    row = {"sample": name, "batch": sample.site, "donor": sample.donor}
    # a stream each, so that a sample's RNA does not depend on whether fragments are written
    rna_rng, atac_rng = (np.random.default_rng([options.seed, 3, index, k]) for k in range(2))
    if sample.rna:
        counts = rna_counts(rna_rng, world, group)
        features = gene_features(world)
        if sample.protein:
            counts = sp.hstack([counts, protein_counts(rna_rng, world, group)], format="csr")
            features = pd.concat([features, protein_features(world)], ignore_index=True)
        row["rna"] = f"{name}/filtered_feature_bc_matrix" + (".h5" if sample.rna == "h5" else "")
        row["protein"] = row["rna"] if sample.protein else ""
        write = write_10x_h5 if sample.rna == "h5" else write_mtx
        write(outdir / row["rna"], counts, group.cells["barcode"].to_numpy(), features)
    if sample.atac:
        hits = peak_hits(atac_rng, world, group)
        if options.fragments:
            fragments = draw_fragments(atac_rng, world, group, hits, options)
            row |= write_fragment_inputs(outdir, world, group, fragments, atac_rng)
            seen = np.bincount(hits[1], minlength=len(world.peaks))
            write_peaks(outdir / row["peaks"], atac_rng, world, seen)
        else:
            row |= write_peak_matrix(outdir, world, group, hits)
    return row


def write_peak_matrix(outdir: Path, world: World, group: SampleCells, hits: Hits) -> dict[str, str]:
    """Write the ATAC counts of one sample as a 10x h5 of peaks."""
    path = f"{group.sample.name}/filtered_peak_bc_matrix.h5"
    counts = peak_matrix(world, group, *hits)
    write_10x_h5(outdir / path, counts, group.cells["barcode"].to_numpy(), peak_features(world))
    return {"atac": path}


def write_fragment_inputs(
    outdir: Path, world: World, group: SampleCells, fragments: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, str]:
    """Write fragments and whatever tells their cells."""
    name = group.sample.name
    row = {"fragments": f"{name}/fragments.tsv.gz", "peaks": f"{name}/peaks.bed"}
    own = group.cells["barcode"].to_numpy()
    if group.sample.cells == "map":
        # two whitelists: the ATAC barcode of a droplet is not its RNA barcode
        other = barcodes(rng, own.size)
        fragments["names"][: own.size] = other
        row["barcode_map"] = f"{name}/barcode_map.tsv"
        table = "".join(f"{a}\t{b}\n" for a, b in zip(other, own))
        (outdir / row["barcode_map"]).write_text(table)
    elif group.sample.cells == "list":
        row["barcodes"] = f"{name}/barcodes.tsv"
        (outdir / row["barcodes"]).write_text("".join(f"{b}\n" for b in own))
    write_fragments(outdir / row["fragments"], world, name, fragments)
    return row


def write_peaks(path: Path, rng: np.random.Generator, world: World, seen: np.ndarray) -> None:
    """Write the peaks a caller would find in one sample: those with fragments enough, uncertain edges, some noise."""
    floor = max(3, np.quantile(seen, 0.1))
    called = np.flatnonzero(seen >= floor)
    shift = rng.integers(-40, 41, (called.size, 2))
    found = world.peaks.iloc[called]
    frame = pd.DataFrame(
        {
            "chrom": found["chrom"].to_numpy(),
            "start": found["start"].to_numpy() + shift[:, 0],
            "end": found["end"].to_numpy() + shift[:, 1],
        }
    )
    frame["name"] = [f"peak_{i + 1}" for i in range(called.size)]
    frame["score"] = np.minimum(1000, seen[called])
    noise = frame.sample(frac=0.01, random_state=int(rng.integers(2**31))).assign(score=1)
    noise[["start", "end"]] += 1500
    noise["name"] = [f"noise_{i + 1}" for i in range(len(noise))]
    frame = pd.concat([frame, noise]).sort_values(["chrom", "start"], kind="stable")
    write_bed(frame, path)


def gene_features(world: World) -> pd.DataFrame:
    """id, name, feature_type and genome of the genes, as in a 10x features file."""
    genes = world.genes
    return pd.DataFrame(
        {"id": genes["id"], "name": genes["symbol"], "feature_type": "Gene Expression", "genome": "toy"}
    )


def protein_features(world: World) -> pd.DataFrame:
    """The same for antibodies; the last two are isotype controls."""
    proteins = world.proteins
    assert proteins["symbol"].tail(ISOTYPES).str.contains("isotype").all()
    return pd.DataFrame(
        {"id": proteins["id"], "name": proteins["symbol"], "feature_type": "Antibody Capture", "genome": ""}
    )


def peak_features(world: World) -> pd.DataFrame:
    """The same for peaks, with the interval."""
    peaks = world.peaks
    interval = peaks["chrom"] + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)
    return pd.DataFrame(
        {"id": interval, "name": interval, "feature_type": "Peaks", "genome": "toy", "interval": interval}
    )


def write_10x_h5(path: Path, counts: sp.csr_matrix, cells: np.ndarray, features: pd.DataFrame) -> None:
    """Write Cell Ranger's v3 h5: cells are columns, so that CSR by cell is its CSC."""
    counts = counts.sorted_indices()
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        put = writer(file)
        put("matrix/barcodes", cells.astype("S"))
        put("matrix/data", counts.data.astype(np.int32))
        put("matrix/indices", counts.indices.astype(np.int64))
        put("matrix/indptr", counts.indptr.astype(np.int64))
        put("matrix/shape", np.array([len(features), len(cells)], dtype=np.int32))
        tags = [column for column in features if column in ("genome", "interval")]
        put("matrix/features/_all_tag_keys", np.array(tags, dtype="S"))
        for column in features:
            put(f"matrix/features/{column}", features[column].to_numpy().astype("S"))
        file.attrs["filetype"] = "matrix"
        file.attrs["version"] = 2


def write_mtx(path: Path, counts: sp.csr_matrix, cells: np.ndarray, features: pd.DataFrame) -> None:
    """Write Cell Ranger's v3 folder: matrix.mtx.gz (features x cells, 1-based), features.tsv.gz, barcodes.tsv.gz."""
    path.mkdir()
    table = counts.sorted_indices().tocoo()
    head = f"%%MatrixMarket matrix coordinate integer general\n%\n{len(features)} {len(cells)} {table.nnz}\n"
    body = pd.DataFrame({"feature": table.col + 1, "cell": table.row + 1, "count": table.data})
    write_gzip(path / "matrix.mtx.gz", head + body.to_csv(sep=" ", header=False, index=False))
    columns = features[["id", "name", "feature_type"]]
    write_gzip(path / "features.tsv.gz", columns.to_csv(sep="\t", header=False, index=False))
    write_gzip(path / "barcodes.tsv.gz", "".join(f"{b}\n" for b in cells))


def write_gzip(path: Path, text: str) -> None:
    """Gzip without a time stamp, so that the same text gives the same bytes."""
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def write_genome(folder: Path, world: World) -> None:
    """Write chrom.sizes, tss.bed (BED6 and gene id), genes.gtf and blacklist.bed."""
    folder.mkdir()
    sizes = "".join(f"{chrom}\t{size}\n" for chrom, size in world.chrom_sizes.items())
    (folder / "chrom.sizes").write_text(sizes)
    genes = world.genes.sort_values(["chrom", "position"], kind="stable")
    tss, gtf = [], ["#!genome-build toy\n"]
    for gene in genes.itertuples():
        tss.append(f"{gene.chrom}\t{gene.position}\t{gene.position + 1}\t{gene.symbol}\t0\t{gene.strand}\t{gene.id}\n")
        size = world.chrom_sizes[gene.chrom]
        body = (gene.position + 1, min(size, gene.position + 2000))
        lo, hi = body if gene.strand == "+" else (max(1, gene.position - 1998), gene.position + 1)
        gtf.append(
            f"{gene.chrom}\tmultivi-nf\tgene\t{lo}\t{hi}\t.\t{gene.strand}\t.\t"
            f'gene_id "{gene.id}"; gene_name "{gene.symbol}";\n'
        )
    (folder / "tss.bed").write_text("".join(tss))
    (folder / "genes.gtf").write_text("".join(gtf))
    write_bed(world.blacklist, folder / "blacklist.bed")


def write_requests(outdir: Path, world: World) -> None:
    """Write what a user would ask for: `--contrasts`, a list for `--impute_features`, and `--marker_sets`."""
    rows = [
        ("clusters_rna", "rna", "cluster", "each", "rest", "all"),
        ("donor_1_against_2", "rna", "donor", "donor_1", "donor_2", "observed"),
        ("clusters_atac", "atac", "cluster", "each", "rest", "observed"),
    ]
    contrasts = pd.DataFrame(rows, columns=["contrast", "modality", "groupby", "target", "reference", "cells"])
    contrasts.to_csv(outdir / "contrasts.csv", index=False)
    strongest = np.argsort(-np.abs(world.rna.loadings[:10]).max(0), kind="stable")[:40]
    markers = world.genes["id"].to_numpy()[np.sort(strongest)]
    (outdir / "markers.txt").write_text("".join(f"{gene}\n" for gene in markers))
    sets = "".join(f"{cell_type}\t{gene}\t+\n" for cell_type, gene in marker_sets(world))
    (outdir / "marker_sets.tsv").write_text("type\tgene\tsign\n" + sets)


TYPICAL = {
    **{cell_type: {cell_type: 1.0} for cell_type in DISCRETE},
    "progenitor": {"trunk": 1.0},
    "arm_a": {"a_ramp": 1.0},
    "arm_b": {"b_ramp": 1.0},
}
"""The state of a cell that shows its type best."""


def marker_sets(world: World, n: int = 8) -> list[tuple[str, str]]:
    """Give the genes that a biologist would name for each type: those that stand highest above every other type.

    What counts is the difference to the next type in standard deviations of a count, so that rare genes are not chosen.
    """
    states = np.zeros((len(TYPICAL), len(STATES)))
    for row, state in enumerate(TYPICAL.values()):
        for name, value in state.items():
            states[row, STATES.index(name)] = value
    shares = world.rna.proportions(states)
    symbols = world.genes["symbol"]
    found = []
    for row, cell_type in enumerate(TYPICAL):
        above = (shares[row] - np.delete(shares, row, axis=0).max(0)) / np.sqrt(shares[row])
        above[symbols.duplicated(keep=False).to_numpy()] = -np.inf
        found += [(cell_type, symbols.iloc[gene]) for gene in np.argsort(-above, kind="stable")[:n]]
    return found
