"""A sweep over what tools write: each file gives the counts put into it, or a sentence that names the fault."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

from multivi_nf.counts.feature_types import kind_of
from multivi_nf.counts.features import is_interval, is_isotype
from multivi_nf.counts.h5ad import modalities_of
from multivi_nf.counts.mitochondria import mitochondrial
from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.inputs.chromosomes import is_mitochondrial
from multivi_nf.testing.files import GENES, PEAKS, SYMBOLS, counts
from multivi_nf.testing.layouts import (
    ATAC,
    BY_MODALITY,
    CELLS,
    JOINT,
    PROTEIN,
    PROTEINS,
    RNA,
    alevin_fry,
    alevin_fry_usa,
    atac_bed,
    by_reference_h5ad,
    cite_seq_count,
    joint_10x,
    joint_h5ad,
    kallisto,
    kallisto_named,
    old_h5ad,
    packed_h5ad,
    parse,
    quoted_lists,
    star_solo,
    with_heading,
)

TYPES = [
    ("GEX", "ATAC", "ADT"),
    ("gex", "atac", "adt"),
    ("Gene Expression", "Peaks", "Antibody Capture"),
    ("GENE EXPRESSION", "PEAKS", "ANTIBODY CAPTURE"),
    ("GRCh38_Gene Expression", "GRCh38_Peaks", "GRCh38_Antibody Capture"),
    ("gene_expression", "chromatin_accessibility", "antibody_capture"),
    ("rna", "scATAC", "surface protein"),
    ("gene", "region", "antibody-derived tags"),
]
COLUMNS = ["modality", "feature_type", "feature.type", "Type", "what_it_is"]


def holds(read: ad.AnnData, modality: str) -> None:
    names, matrix = BY_MODALITY[modality]
    assert read.var_names.tolist() == names
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())
    assert read.obs_names.tolist() == CELLS


@pytest.mark.parametrize("modality", ["rna", "atac", "protein"])
@pytest.mark.parametrize("types", TYPES, ids=lambda types: types[0])
def test_an_h5ad_of_three_modalities_is_split(tmp_path, types, modality):
    holds(read_counts(joint_h5ad(tmp_path / "a.h5ad", types), modality), modality)


@pytest.mark.parametrize("modality", ["rna", "protein"])
@pytest.mark.parametrize("column", COLUMNS)
def test_types_in_a_column_of_another_name(tmp_path, column, modality):
    read = read_counts(joint_h5ad(tmp_path / "a.h5ad", ("GEX", "ATAC", "ADT"), column), modality)
    holds(read, modality)


@pytest.mark.parametrize(
    "more", ["Custom", "CUSTOM", "CRISPR Guide Capture", "Multiplexing Capture", "Antigen Capture"]
)
def test_further_types_of_a_10x_file_never_become_genes_or_proteins(tmp_path, more):
    path = joint_10x(tmp_path / "m.h5", ("Gene Expression", "Peaks", "Antibody Capture"), (more,))
    for modality in ("rna", "atac", "protein"):
        holds(read_counts(path, modality), modality)


def test_only_custom_features_are_no_proteins(tmp_path):
    path = joint_10x(tmp_path / "m.h5", ("Gene Expression", "Peaks", "Custom"))
    with pytest.raises(InputError, match=r"no feature of type 'Antibody Capture'; it holds .*Custom \(3\)"):
        read_counts(path, "protein")


def test_without_types_peaks_and_genes_are_told_apart_by_their_names(tmp_path):
    path = tmp_path / "a.h5ad"
    names = [*GENES, *PEAKS]
    ad.AnnData(JOINT[:, :50], obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=names)).write_h5ad(path)
    for modality in ("rna", "atac"):
        read = read_counts(path, modality)
        holds(read, modality)
        assert f"not {modality} by their names" in read.uns["warnings"][0]


def test_antibodies_without_types_never_become_genes(tmp_path):
    path = tmp_path / "a.h5ad"
    names = [*GENES, *(f"{p}_TotalSeqB" for p in PROTEINS)]
    data = ad.AnnData(JOINT[:, [*range(30), 50, 51, 52]], obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=names))
    data.write_h5ad(path)
    holds(read_counts(path, "rna"), "rna")


@pytest.mark.parametrize("spelling", ["protein_coding", "lncRNA", "", "nan", "exon"])
def test_biotypes_are_no_feature_types(spelling):
    assert kind_of(spelling) is None


@pytest.mark.parametrize(
    "row",
    [
        "unmapped",
        "__no_feature",
        "__ambiguous",
        "__alignment_not_unique",
        "__too_low_aQual",
        "N_noFeature",
        "no_match",
        "bad_struct",
        "total_reads",
        "Unassigned",
    ],
)
@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_rows_that_are_no_features(tmp_path, row, modality):
    names, matrix = BY_MODALITY[modality]
    joined = ad.AnnData(
        np.hstack([matrix.toarray(), counts(24, 1, 9).toarray()]).astype(np.float32),
        obs=pd.DataFrame(index=CELLS),
        var=pd.DataFrame(index=[*names, row]),
    )
    joined.write_h5ad(tmp_path / "a.h5ad")
    read = read_counts(tmp_path / "a.h5ad", modality)
    holds(read, modality)
    assert any(row in note for note in read.uns["notes"])


@pytest.mark.parametrize(
    ("maker", "modality"),
    [
        (star_solo, "rna"),
        (kallisto, "rna"),
        (kallisto_named, "rna"),
        (alevin_fry, "rna"),
        (alevin_fry_usa, "rna"),
        (parse, "rna"),
        (with_heading, "rna"),
        (quoted_lists, "rna"),
        (atac_bed, "atac"),
    ],
)
def test_mtx_folders_of_many_tools(tmp_path, maker, modality):
    read = read_counts(maker(tmp_path / "m"), modality)
    if maker is alevin_fry_usa:
        assert any("added up" in note for note in read.uns["notes"])
    holds(read, modality)
    if maker is parse:
        assert read.obs["sample_well"].tolist() == [f"A{i % 4}" for i in range(24)]


def test_cite_seq_count(tmp_path):
    read = read_counts(cite_seq_count(tmp_path / "m"), "protein")
    assert [name.split("-")[0] for name in read.var_names] == PROTEINS
    np.testing.assert_array_equal(read.X.toarray(), PROTEIN.toarray())


def test_of_several_matrices_one_must_be_named(tmp_path):
    folder = star_solo(tmp_path / "m").parent
    (folder / "matrix.mtx").rename(folder / "UniqueAndMult-EM.mtx")
    with pytest.raises(InputError, match="2 files named") as error:
        read_counts(folder, "rna")
    assert "name the matrix file itself" in str(error.value)
    holds(read_counts(folder / "UniqueAndMult-Uniform.mtx", "rna"), "rna")


@pytest.mark.parametrize("maker", [old_h5ad, by_reference_h5ad])
def test_old_anndata(tmp_path, maker):
    read = read_counts(maker(tmp_path / "old.h5ad"), "rna")
    holds(read, "rna")
    assert read.obs["kind"].astype(str).tolist() == ["B", "T"] * 12
    assert read.var["symbol"].tolist() == SYMBOLS


@pytest.mark.parametrize("name", ["Zstd", "Blosc", "LZ4", "Bitshuffle"])
def test_hdf5_filter_plug_ins(tmp_path, name):
    holds(read_counts(packed_h5ad(tmp_path / "a.h5ad", name), "rna"), "rna")


def test_a_filter_that_nobody_has_is_named(tmp_path, monkeypatch):
    from multivi_nf.io import hdf5

    path = packed_h5ad(tmp_path / "a.h5ad", "Zstd")
    monkeypatch.setattr(hdf5.h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(InputError) as error:
        read_counts(path, "rna")
    assert "HDF5 filter 32015" in str(error.value)
    assert "h5repack" in str(error.value)
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("layer", ["counts", "Counts", "raw_counts", "UMIs", "counts_raw", "my_matrix"])
def test_counts_in_a_layer(tmp_path, layer):
    data = ad.AnnData(RNA.astype(np.float32).log1p(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES))
    data.layers[layer] = RNA
    data.write_h5ad(tmp_path / "a.h5ad")
    read = read_counts(tmp_path / "a.h5ad", "rna")
    holds(read, "rna")
    assert layer in read.uns["source"]


@pytest.mark.parametrize("layer", ["spliced", "lognorm", "magic"])
def test_other_layers_are_no_counts(tmp_path, layer):
    data = ad.AnnData(RNA.astype(np.float32).log1p(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES))
    data.layers[layer] = RNA
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="not whole numbers"):
        read_counts(tmp_path / "a.h5ad", "rna")


def rna_only() -> ad.AnnData:
    return ad.AnnData(
        RNA.astype(np.float32), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame({"gene_ids": GENES}, index=SYMBOLS)
    )


@pytest.mark.parametrize("kind", ["frame", "array", "sparse-names", "adt"])
def test_protein_in_obsm(tmp_path, kind):
    data = rna_only()
    key = "ADT_counts" if kind == "adt" else "protein_expression"
    dense = PROTEIN.toarray()
    data.obsm[key] = pd.DataFrame(dense, index=CELLS, columns=PROTEINS) if kind in ("frame", "adt") else dense
    if kind != "frame":
        data.uns["protein_names" if kind == "array" else f"{key}_names"] = np.array(PROTEINS, dtype=object)
    data.write_h5ad(tmp_path / "a.h5ad")
    holds(read_counts(tmp_path / "a.h5ad", "protein"), "protein")
    genes = read_counts(tmp_path / "a.h5ad", "rna")
    holds(genes, "rna")
    assert any("column protein too" in note for note in genes.uns["notes"])


def test_protein_in_obsm_without_names(tmp_path):
    data = rna_only()
    data.obsm["protein_expression"] = PROTEIN.toarray()
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="an array of 3 columns without names") as error:
        read_counts(tmp_path / "a.h5ad", "protein")
    assert "uns['protein_names']" in str(error.value)


def of_three(names: tuple[str, str, str]) -> mudata.MuData:
    parts = {}
    for name, (features, matrix) in zip(names, BY_MODALITY.values()):
        parts[name] = ad.AnnData(matrix, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=features))
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData(parts)
        data.obs["cell_type"] = ["B", "T"] * 12
    return data


@pytest.mark.parametrize("names", [("rna", "atac", "protein"), ("gex", "peaks", "adt"), ("GEX", "ATAC", "prot")])
@pytest.mark.parametrize("ending", ["h5mu", "zarr"])
def test_mudata(tmp_path, names, ending):
    path = tmp_path / f"m.{ending}"
    of_three(names).write(path) if ending == "h5mu" else of_three(names).write_zarr(path)
    assert modalities_of(path) == ["rna", "atac", "protein"]
    for modality in BY_MODALITY:
        read = read_counts(path, modality)
        holds(read, modality)
        assert read.obs["cell_type"].tolist() == ["B", "T"] * 12


def test_mudata_with_protein_in_obsm(tmp_path):
    data = rna_only()
    data.obsm["protein_expression"] = pd.DataFrame(PROTEIN.toarray(), index=CELLS, columns=PROTEINS)
    mudata.MuData({"rna": data}).write(tmp_path / "m.h5mu")
    assert modalities_of(tmp_path / "m.h5mu") == ["rna", "protein"]
    holds(read_counts(tmp_path / "m.h5mu", "protein"), "protein")


def test_zarr_store_of_anndata(tmp_path):
    rna_only().write_zarr(tmp_path / "a.zarr")
    holds(read_counts(tmp_path / "a.zarr", "rna"), "rna")
    rna_only().write_zarr(tmp_path / "no_ending")
    holds(read_counts(tmp_path / "no_ending", "rna"), "rna")


@pytest.mark.parametrize("values", [["True"] * 24, ["TRUE"] * 24, [1] * 24, [True] * 24, ["yes"] * 24, [1.0] * 24])
def test_is_cell_of_any_type(tmp_path, values):
    data = rna_only()
    data.obs["is_cell"] = values
    data.write_h5ad(tmp_path / "a.h5ad")
    holds(read_counts(tmp_path / "a.h5ad", "rna"), "rna")


@pytest.mark.parametrize("values", [["False"] * 24, [0] * 24, ["no"] * 24])
def test_is_cell_that_says_no(tmp_path, values):
    data = rna_only()
    data.obs["is_cell"] = values
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="unfiltered"):
        read_counts(tmp_path / "a.h5ad", "rna")


def test_is_cell_that_says_neither(tmp_path):
    data = rna_only()
    data.obs["is_cell"] = ["maybe"] * 24
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="'maybe', which is neither true nor false"):
        read_counts(tmp_path / "a.h5ad", "rna")


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1, 2, 3], ("i", [1, 2, 3])),
        ([True, False, True], ("b", [True, False, True])),
        (pd.array([1, None, 3], dtype="Int64"), ("Int64", [1, pd.NA, 3])),
        (pd.array([True, None, False], dtype="boolean"), ("boolean", [True, pd.NA, False])),
        ([1.5, np.nan, 2], ("f", [1.5, np.nan, 2.0])),
        (pd.Categorical(["low", "high", "low"], ["low", "high"], ordered=True), ("ordered", ["low", "high", "low"])),
        (pd.Categorical([3, 1, 3]), ("category", [3, 1, 3])),
    ],
)
def test_obs_keeps_its_types(tmp_path, values, want):
    data = rna_only()[:3].copy()
    data.obs["x"] = values
    data.write_h5ad(tmp_path / "a.h5ad")
    read = read_counts(tmp_path / "a.h5ad", "rna").obs["x"]
    kind, expected = want
    if kind == "ordered":
        assert read.cat.ordered
        assert read.cat.categories.tolist() == ["low", "high"]
    else:
        assert kind in (read.dtype.kind, str(read.dtype))
    assert [v if pd.notna(v) else "gap" for v in read] == [v if pd.notna(v) else "gap" for v in expected]


@pytest.mark.parametrize(
    "name",
    [
        "cluster",
        "sample",
        "batch",
        "modality",
        "has_rna",
        "out_of_support",
        "support_p",
        "calibrated",
        "cell_type_by_markers",
    ],
)
def test_names_that_clash_get_a_suffix_and_a_sentence(tmp_path, name):
    data = rna_only()
    data.obs[name] = ["x", "y"] * 12
    data.write_h5ad(tmp_path / "a.h5ad")
    read = read_counts(tmp_path / "a.h5ad", "rna")
    assert read.obs[f"{name}_given"].tolist() == ["x", "y"] * 12
    assert name not in read.obs
    assert any(f"{name}_given" in note for note in read.uns["notes"])


@pytest.mark.parametrize("genome", ["column", "ids"])
def test_two_species_are_told(tmp_path, genome):
    names = [f"GRCh38_{g}" for g in GENES[:15]] + [f"mm10___ENSMUSG{i:011d}" for i in range(15)]
    var = pd.DataFrame({"genome": ["GRCh38"] * 15 + ["mm10"] * 15}, index=names)
    var = var if genome == "column" else var[[]]
    ad.AnnData(RNA, obs=pd.DataFrame(index=CELLS), var=var).write_h5ad(tmp_path / "a.h5ad")
    [warning] = read_counts(tmp_path / "a.h5ad", "rna").uns["warnings"]
    assert "GRCh38 (15 genes), mm10 (15 genes)" in warning


MITO = {
    "human": (["MT-ND1", "MT-CO1", "ACTB"], [True, True, False]),
    "mouse": (["mt-Nd1", "mt-Co1", "Mtor"], [True, True, False]),
    "fly": (["mt:ND1", "mt:CoI", "mtd"], [True, True, False]),
    "worm": (["nduo-1", "ctc-1", "ctb-1", "atp-6", "nduo-2", "unc-5"], [True] * 5 + [False]),
    "worm ids": (["MTCE.7", "ZK673.1"], [True, False]),
    "plant": (["ATMG00010", "AT1G01010"], [True, False]),
    "yeast": (["Q0045", "YAL001C"], [True, False]),
    "pig": (["ND1", "ND2", "COX1", "COX2", "CYTB", "ACTB"], [True] * 5 + [False]),
    "barnyard": (["GRCh38_MT-ND1", "mm10___mt-Nd1", "GRCh38_ACTB"], [True, True, False]),
    "few bare names": (["COX1", "ACTB", "GAPDH"], [False] * 3),
    "near misses": (["MTOR", "MT1X", "MTRNR2L8", "MTND1P23"], [False] * 4),
    "Seurat": (["MT.ND1", "MT_CO1", "MTHFR"], [True, True, False]),
}


@pytest.mark.parametrize("who", MITO)
def test_mitochondrial_genes(who):
    symbols, want = MITO[who]
    assert mitochondrial(symbols, symbols).tolist() == want


def test_mitochondrial_genes_as_the_user_says():
    symbols = ["m1", "m2", "a"]
    assert mitochondrial(symbols, symbols, "m*").tolist() == [True, True, False]
    assert mitochondrial(symbols, symbols, "A, m1").tolist() == [True, False, True]
    with pytest.raises(InputError, match="--mito_genes names 'zz'"):
        mitochondrial(symbols, symbols, "zz")


CONTIGS = ["chrM", "MT", "M", "chrMT", "MtDNA", "mitochondrion_genome", "Mito", "GRCh38_chrM", "mm10___MT", "chrMito"]


@pytest.mark.parametrize("name", CONTIGS)
def test_mitochondrial_contigs(name):
    assert is_mitochondrial(name)


@pytest.mark.parametrize("name", ["chr1", "2L", "X", "IV", "chrM_random", "GL000194.1", "scaffold_12", "GRCh38_chr1"])
def test_other_contigs(name):
    assert not is_mitochondrial(name)


@pytest.mark.parametrize(
    "name",
    [
        "IgG1",
        "Rat IgG2b, kappa Isotype Ctrl",
        "Mouse-IgG1",
        "rat_IgG2a",
        "Isotype_MOPC.21",
        "IgG2a_control_TotalSeqB",
        "Armenian Hamster IgG",
        "CTRL-IgG1",
        "Ms.IgG1",
        "anti-mouse IgG1 isotype control",
        "mIgG2b",
        "IgG1_TotalSeqC",
    ],
)
def test_isotype_controls(name):
    assert is_isotype(name)


@pytest.mark.parametrize(
    "name",
    ["anti-mouse IgM", "anti-human IgD", "IgM", "IgD", "IgA", "IgG", "Hu.IgM", "anti-IgG Fc", "Ig kappa"],
)
def test_immunoglobulins_of_the_cell_are_targets(name):
    assert not is_isotype(name)


@pytest.mark.parametrize("name", ["NKX2-1", "HIST1-2-3", "H2-K1", "KRTAP4-11", "MIR-17-92", "HLA-DRB1-2"])
def test_genes_that_look_a_little_like_intervals(name):
    assert not is_interval(name)


def test_the_counts_differ_between_modalities():
    assert (RNA.toarray()[:, :20] != ATAC.toarray()).any()  # so that a mix-up above would be seen
