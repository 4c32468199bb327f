"""The simulated mosaic: same seed same bytes, formats of real tools, truth that fits, no easier than real cells."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pysam
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors

from multivi_nf.commands.simulate import command
from multivi_nf.errors import InputError
from multivi_nf.fragments.writer import FragmentWriter
from multivi_nf.simulate import PRESETS, Options, read_truth, simulate
from multivi_nf.simulate.cells import draw_cells
from multivi_nf.simulate.counts import at_most, peak_hits, rna_counts
from multivi_nf.simulate.fragments import draw_fragments
from multivi_nf.simulate.world import CELL_TYPES, PEAK_WIDTH, build_world

COMMITTED = Path(__file__).resolve().parents[2] / "data" / "mosaic"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    outdir = tmp_path_factory.mktemp("simulate") / "mosaic"
    result = CliRunner().invoke(command, ["--preset", "test", "--seed", "0", "--outdir", str(outdir)])
    assert result.exit_code == 0, result.output
    return outdir


def contents(path: Path):
    """What a file says, without what a compressor's version may change."""
    if path.suffix == ".h5":
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        return found
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_committed_mosaic_is_what_the_command_writes(rebuilt):
    files = sorted(p.relative_to(rebuilt) for p in rebuilt.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(COMMITTED) for p in COMMITTED.rglob("*") if p.is_file())
    assert sum((COMMITTED / p).stat().st_size for p in files) < 3e6
    for file in files:
        if file.suffix == ".tbi":
            continue  # offsets into compressed blocks depend on the compressor
        ours, theirs = contents(rebuilt / file), contents(COMMITTED / file)
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_allclose(
                    *((v[name] if v[name].dtype.kind == "f" else 0) for v in (ours, theirs)), rtol=1e-5
                )
                if ours[name].dtype.kind != "f":
                    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{file} {name}")
        else:
            assert ours == theirs, file


def test_marker_sets_mark_the_cells_of_their_type(rebuilt):
    """Of every type the sum of its eight genes is higher in its true cells than in those of any other type."""
    sets = pd.read_csv(rebuilt / "marker_sets.tsv", sep="\t")
    assert sets.groupby("type", sort=False).size().to_dict() == dict.fromkeys(CELL_TYPES, 8)
    truth = read_truth(rebuilt / "truth")
    cells = truth.cells[truth.cells["sample"] == "rna_1"]
    with h5py.File(rebuilt / "rna_1/filtered_feature_bc_matrix.h5") as file:
        matrix = file["matrix"]
        shape = tuple(matrix["shape"][()])
        counts = sp.csc_matrix((matrix["data"][()], matrix["indices"][()], matrix["indptr"][()]), shape).T.tocsr()
        symbols = matrix["features/name"][()].astype(str)
        types = cells["cell_type"].reindex("rna_1:" + pd.Index(matrix["barcodes"][()].astype(str))).to_numpy()
    share = counts.multiply(1 / np.maximum(counts.sum(1), 1)).tocsr()
    for cell_type, genes in sets.groupby("type")["gene"]:
        score = np.asarray(share[:, np.isin(symbols, genes)].sum(1)).ravel()
        means = pd.Series(score).groupby(types).mean()
        if (types == cell_type).sum() >= 5:
            assert means.idxmax() == cell_type


def test_same_seed_same_bytes_other_seed_other_bytes(rebuilt, tmp_path):
    options = PRESETS["test"]
    simulate(options, tmp_path / "again")
    files = [p for p in rebuilt.rglob("*") if p.is_file()]
    assert all((tmp_path / "again" / p.relative_to(rebuilt)).read_bytes() == p.read_bytes() for p in files)
    simulate(replace(options, seed=1), tmp_path / "other")
    assert (tmp_path / "other/rna_1/filtered_feature_bc_matrix.h5").read_bytes() != (
        rebuilt / "rna_1/filtered_feature_bc_matrix.h5"
    ).read_bytes()


def test_samplesheet_names_files_that_exist(rebuilt):
    sheet = pd.read_csv(rebuilt / "samplesheet.csv", keep_default_na=False)
    assert list(sheet["sample"]) == ["multiome_1", "multiome_2", "rna_1", "rna_2", "atac_1", "atac_2", "cite_1"]
    for column in ("rna", "fragments", "protein", "peaks", "barcodes", "barcode_map"):
        for path in filter(None, sheet[column]):
            assert not Path(path).is_absolute()
            assert (rebuilt / path).exists()
    assert set(sheet["batch"]) == {"site_1", "site_2"}


def test_10x_files_as_cell_ranger_writes_them(rebuilt):
    with h5py.File(rebuilt / "cite_1/filtered_feature_bc_matrix.h5") as file:
        matrix = file["matrix"]
        n_features, n_cells = matrix["shape"][:]
        assert matrix["features/id"].shape == (n_features,)
        assert matrix["barcodes"].shape == (n_cells,)
        counts = sp.csc_matrix(
            (matrix["data"][:], matrix["indices"][:], matrix["indptr"][:]), shape=(n_features, n_cells)
        )
        types = np.char.decode(matrix["features/feature_type"][:])
        names = np.char.decode(matrix["features/name"][:])
    assert counts.data.dtype == np.int32
    assert counts.data.min() > 0
    assert set(types) == {"Gene Expression", "Antibody Capture"}
    protein = names[types == "Antibody Capture"]
    assert sum("isotype_control" in name for name in protein) == 2
    assert set(protein) & set(names[types == "Gene Expression"]), "a gene and a protein share a name, as in real panels"
    folder = rebuilt / "rna_2/filtered_feature_bc_matrix"
    head = gzip.decompress((folder / "matrix.mtx.gz").read_bytes()).decode().splitlines()
    assert head[0] == "%%MatrixMarket matrix coordinate integer general"
    n_rows, n_columns, n_entries = map(int, head[2].split())
    assert n_entries == len(head) - 3
    assert n_rows == len(gzip.decompress((folder / "features.tsv.gz").read_bytes()).splitlines())
    assert n_columns == len(gzip.decompress((folder / "barcodes.tsv.gz").read_bytes()).splitlines())


def test_fragments_are_bgzip_sorted_indexed_and_inside_the_genome(rebuilt):
    path = rebuilt / "atac_1/fragments.tsv.gz"
    data = path.read_bytes()
    assert data[:4] == b"\x1f\x8b\x08\x04"
    assert data.endswith(bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000"))
    lines = gzip.decompress(data).decode().splitlines()
    assert lines[0] == "# id=atac_1"
    frame = pd.DataFrame([line.split("\t") for line in lines if not line.startswith("#")])
    frame[[1, 2, 4]] = frame[[1, 2, 4]].astype(int)
    sizes = dict(line.split() for line in (rebuilt / "genome/chrom.sizes").read_text().splitlines())
    assert (frame[1] >= 0).all()
    assert (frame[2] <= frame[0].map(sizes).astype(int)).all()
    assert (frame[2] > frame[1]).all()
    assert (frame[4] >= 1).all()
    for _, rows in frame.groupby(0):
        assert rows[1].is_monotonic_increasing
    assert frame[0].is_monotonic_increasing
    first = frame[frame[0] == "chr2"]
    with pysam.TabixFile(str(path)) as index:
        assert index.contigs == list(sizes)
        assert len(list(index.fetch("chr2"))) == len(first)


def test_barcodes_of_fragments_follow_the_samplesheet(rebuilt):
    truth = read_truth(rebuilt / "truth").cells

    def seen(sample):
        lines = gzip.decompress((rebuilt / sample / "fragments.tsv.gz").read_bytes()).decode().splitlines()
        return {line.split("\t")[3] for line in lines if not line.startswith("#")}

    of = {name: set(rows["barcode"]) for name, rows in truth.groupby("sample")}
    assert of["multiome_1"] <= seen("multiome_1")
    table = pd.read_csv(rebuilt / "multiome_2/barcode_map.tsv", sep="\t", header=None)
    assert set(table[1]) == of["multiome_2"]
    assert set(table[0]) <= seen("multiome_2")
    assert not of["multiome_2"] & seen("multiome_2")
    assert set((rebuilt / "atac_1/barcodes.tsv").read_text().split()) == of["atac_1"]
    assert len(seen("atac_2") - of["atac_2"]) > 0, "background barcodes are there to be told from cells"


def test_truth_is_readable_and_its_means_predict_the_counts(rebuilt):
    truth = read_truth(rebuilt / "truth")
    assert truth.cells.index.is_unique
    assert truth.cells["doublet"].astype(bool).mean() == pytest.approx(0.04, abs=0.02)
    with h5py.File(rebuilt / "rna_1/filtered_feature_bc_matrix.h5") as file:
        m = file["matrix"]
        counts = sp.csc_matrix((m["data"][:], m["indices"][:], m["indptr"][:]), shape=m["shape"][:]).T.toarray()
        cells = "rna_1:" + pd.Index(np.char.decode(m["barcodes"][:]))
        assert list(np.char.decode(m["features/id"][:])) == list(truth.genes.index)
    mean = truth.expression(cells)
    np.testing.assert_allclose(mean.sum(1), 1e4, rtol=1e-4)
    correlation = np.corrcoef(np.log1p(mean).ravel(), np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).ravel())
    assert correlation[0, 1] > 0.7
    open_probability = truth.accessibility(cells)
    assert ((open_probability >= 0) & (open_probability <= 1)).all()
    effect = truth.log2_fold_change("rna", "type_1")
    designed = truth.designed("rna", "type_1")
    assert np.abs(effect[designed]).mean() > 2 * np.abs(effect[~designed]).mean()
    with pytest.raises(InputError, match="not in the truth"):
        truth.expression(pd.Index(["rna_1:NOBODY-1"]))
    with pytest.raises(InputError, match=r"means\.h5"):
        read_truth(rebuilt)


def test_without_fragments_peaks_are_a_matrix(tmp_path):
    sheet = pd.read_csv(simulate(replace(PRESETS["test"], fragments=False), tmp_path / "m"), keep_default_na=False)
    row = sheet.set_index("sample").loc["atac_1"]
    assert row["fragments"] == ""
    with h5py.File(tmp_path / "m" / row["atac"]) as file:
        assert set(np.char.decode(file["matrix/features/feature_type"][:])) == {"Peaks"}


def test_folder_in_use_and_sizes_too_small_are_refused(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(InputError, match="not an empty folder"):
        simulate(PRESETS["test"], tmp_path)
    assert (tmp_path / "mine").read_text() == "kept"
    with pytest.raises(InputError, match=r"--cells 5 is less than 70[\s\S]*--peaks 1 is less"):
        Options(cells=5, peaks=1)


def test_at_most_keeps_the_first_of_equal_pairs():
    rows, columns = np.array([0, 0, 0, 1, 0, 1]), np.array([2, 2, 2, 2, 1, 2])
    assert at_most(2, rows, columns, 3).tolist() == [True, True, False, True, True, True]
    assert at_most(1, rows, columns, 3).tolist() == [True, False, False, True, True, False]


def test_lines_are_written_digit_by_digit(tmp_path):
    start, end, owner, support = np.array([[0, 10, 0, 1], [99, 100, 1, 12], [1000000, 1000250, 0, 3]]).T
    with FragmentWriter(tmp_path / "f.tsv.gz", ["chr1"], ["ACGT", "TTGG"]) as writer:
        writer.write(np.zeros(3, int), start, end, owner, support)
    assert (
        gzip.decompress((tmp_path / "f.tsv.gz").read_bytes())
        == b"chr1\t0\t10\tACGT\t1\nchr1\t99\t100\tTTGG\t12\nchr1\t1000000\t1000250\tACGT\t3\n"
    )


# ---- no easier than real cells --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def default_mosaic():
    """Counts of all RNA cells and all ATAC cells of the default mosaic, in memory."""
    options = PRESETS["default"]
    world, groups = build_world(options), draw_cells(options)
    rna, atac, rna_cells, atac_cells, frip = [], [], [], [], []
    starts = dict(zip(world.chrom_sizes, np.cumsum([0, *world.chrom_sizes.values()])))
    peak_start = (world.peaks["chrom"].map(starts) + world.peaks["start"]).to_numpy()
    for index, group in enumerate(groups):
        streams = [np.random.default_rng([options.seed, 3, index, k]) for k in range(2)]
        if group.sample.rna:
            rna.append(rna_counts(streams[0], world, group))
            rna_cells.append(group.cells)
        if group.sample.atac:
            f = draw_fragments(streams[1], world, group, peak_hits(streams[1], world, group), options)
            offset = np.cumsum([0, *world.chrom_sizes.values()])[f["chrom"]]
            peak = np.searchsorted(peak_start, offset + f["end"]) - 1
            inside = (peak >= 0) & (peak_start[np.maximum(peak, 0)] + PEAK_WIDTH > offset + f["start"])
            own, n = f["owner"] < len(group.cells), len(group.cells)
            frip.append(np.bincount(f["owner"][own & inside], minlength=n) / np.bincount(f["owner"][own], minlength=n))
            hit = own & inside
            shape = (n, options.peaks)
            atac.append(sp.csr_matrix((np.ones(hit.sum(), np.int32), (f["owner"][hit], peak[hit])), shape=shape))
            atac_cells.append(group.cells)
    return sp.vstack(rna), pd.concat(rna_cells), sp.vstack(atac) > 0, pd.concat(atac_cells), np.concatenate(frip)


def purity(space, labels, k=15):
    neighbours = NearestNeighbors(n_neighbors=k).fit(space).kneighbors(return_distance=False)
    return (labels[neighbours] == labels[:, None]).mean()


def rna_space(counts):
    scaled = counts.toarray() / counts.sum(1) * 1e4
    logged = np.log1p(np.asarray(scaled))
    logged -= logged.mean(0)
    return TruncatedSVD(30, random_state=0).fit_transform(logged)


def lsi_space(binary):
    binary = binary[:, np.asarray(binary.sum(0)).ravel() >= 0.01 * binary.shape[0]].astype(float)
    frequency = sp.diags(1 / np.asarray(binary.sum(1)).ravel()) @ binary
    weighted = (frequency @ sp.diags(np.log1p(binary.shape[0] / np.asarray(binary.sum(0)).ravel()))).tocsr()
    weighted.data = np.log1p(1e4 * weighted.data)
    return TruncatedSVD(31, random_state=0).fit_transform(weighted)[:, 1:]


def test_default_mosaic_is_no_easier_than_real_cells(default_mosaic):
    rna, rna_cells, atac, atac_cells, frip = default_mosaic
    every = pd.concat([rna_cells, atac_cells])
    every = every[~every.index.duplicated()]
    assert len(every) == 2000
    assert (every["cell_type"] == "rare").mean() <= 0.03
    assert (every["cell_type"] == "rare").sum() >= 20
    assert every["cell_type"].nunique() == 9

    space = rna_space(rna)
    assert 0.70 <= purity(space, rna_cells["cell_type"].to_numpy()) <= 0.90
    site = rna_cells["site"].to_numpy()
    assert purity(space, site) > 0.8, "two sites are visibly apart before correction (chance is 0.52)"

    assert 0.35 <= purity(lsi_space(atac), atac_cells["cell_type"].to_numpy()) <= 0.70
    assert 0.005 <= atac.mean() <= 0.05
    assert 0.3 <= np.median(frip) <= 0.6

    shares = every.groupby("sample")["cell_type"].value_counts(normalize=True).unstack(fill_value=0)
    assert (shares.max() > 1.5 * shares.min()).sum() >= 5, "samples differ in composition"


def test_a_nucleus_is_diploid_and_a_doublet_is_not(default_mosaic):
    options = PRESETS["test"]
    world, group = build_world(options), draw_cells(options)[0]
    rows, peaks = peak_hits(np.random.default_rng(0), world, group)
    counts = sp.csr_matrix((np.ones(rows.size), (rows, peaks)), shape=(len(group.cells), options.peaks))
    doublet = group.cells["doublet"].to_numpy()
    assert counts[~doublet].max() == 2
    assert counts[doublet].max() > 2
