"""Hashtags: read from every layout, cells given to the donor they were mixed from, doublets found, nothing invented."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import sparse

from multivi_nf.commands.qc_protein import command as qc_protein
from multivi_nf.commands.qc_rna import command as qc_rna
from multivi_nf.counts.hashtags import read_hashtags, tag_names
from multivi_nf.errors import InputError
from multivi_nf.qc.hashtags import demultiplex
from multivi_nf.testing.files import barcodes, write_10x, write_h5ad

NAMES = ["HTO1", "HTO2", "HTO3", "HTO4"]


def mixed(n: int = 400, tags: int = 4, doublets: float = 0.06, seed: int = 0):
    """Tag counts, the donor of each cell, and whether it is a doublet of two donors."""
    rng = np.random.default_rng(seed)
    donor = rng.integers(0, tags, n)
    doublet = rng.random(n) < doublets
    other = (donor + rng.integers(1, tags, n)) % tags
    counts = rng.poisson(rng.lognormal(np.log(12), 0.4, (n, 1)) * np.ones(tags))
    counts[np.arange(n), donor] += rng.poisson(rng.lognormal(np.log(400), 0.4, n))
    counts[doublet, other[doublet]] += rng.poisson(rng.lognormal(np.log(400), 0.4, int(doublet.sum())))
    return counts, donor, doublet


def tags_of(counts, names=None, prefix="c"):
    names = names or [f"HTO{i + 1}" for i in range(counts.shape[1])]
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(len(counts))])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=obs, var=pd.DataFrame(index=names))


@pytest.mark.parametrize("tags", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("seed", range(2))
def test_cells_go_to_the_donor_they_came_from(tags, seed):
    counts, donor, doublet = mixed(500, tags, seed=seed)
    found = demultiplex(tags_of(counts), "s").table
    single = (found["hashtag_class"] == "singlet").to_numpy()
    right = found["hashtag"].to_numpy()[single] == np.array([f"HTO{d + 1}" for d in donor])[single]
    assert single[~doublet].mean() > 0.95
    assert right[~doublet[single]].all()
    assert (found["hashtag_class"] == "doublet").to_numpy()[doublet].mean() > 0.9
    assert found["hashtag"].isna().to_numpy()[~single].all()


def test_cells_without_a_tag_are_negative():
    counts, _, _ = mixed(200)
    counts[:10] = 0
    found = demultiplex(tags_of(counts), "s").table
    assert (found["hashtag_class"][:10] == "negative").all()


def test_a_tag_without_counts_is_named():
    counts, _, _ = mixed(200, 3)
    counts = np.column_stack([counts, np.zeros(200, int)])
    found = demultiplex(tags_of(counts), "s")
    assert "HTO4" in found.notes[0] and "HTO4" not in found.facts().singlets
    assert sum(found.facts().classes.values()) == 200


def test_one_tag_is_refused_with_a_remedy_that_works():
    counts, _, _ = mixed(200)
    with pytest.raises(InputError, match="1 of its hashtags") as caught:
        demultiplex(tags_of(counts[:, :1]), "s")
    assert "all hashtags" in caught.value.remedy
    assert len(demultiplex(tags_of(counts), "s").table) == 200


@pytest.mark.parametrize("tags", [2, 3, 12])
@pytest.mark.parametrize("cells", [1, 2, 3, 10, 19, 20, 30])
def test_small_samples(cells, tags):
    counts, _, _ = mixed(cells, tags)
    found = demultiplex(tags_of(counts), "s")
    if cells < 20:
        assert (found.table["hashtag_class"] == "unknown").all() and "at least 20" in found.notes[-1]
    else:
        assert np.isfinite(found.table["hashtag_probability"]).all()


def test_tags_that_do_not_vary_are_told_by_their_share():
    counts = np.full((40, 2), 1)
    counts[:20, 0] = counts[20:, 1] = 100
    counts[0] = 100
    found = demultiplex(tags_of(counts), "s").table
    assert found["hashtag"].tolist()[1:] == ["HTO1"] * 19 + ["HTO2"] * 20
    assert found["hashtag_class"].iloc[0] == "doublet"


def test_wrong_file_is_warned_about():
    rng = np.random.default_rng(0)
    found = demultiplex(tags_of(rng.poisson(12, (300, 4))), "s")
    lost = (found.table["hashtag_class"] != "singlet").mean()
    assert (lost > 0.5) == bool(found.warnings)


# how a tool writes hashtags: (feature types, names of the four tags, names given in the samplesheet)
LAYOUTS = {
    "Cell Ranger multi (CMO)": ("Multiplexing Capture", ["CMO301", "CMO302", "CMO303", "CMO304"], ()),
    "type HTO": ("HTO", ["donor a", "donor b", "donor c", "donor d"], ()),
    "antibodies called HTO": ("Antibody Capture", ["HTO1", "HTO2", "HTO3", "HTO4"], ()),
    "TotalSeq hashtags": ("Antibody Capture", ["Hashtag1_TotalSeqB", "Hashtag2", "Hashtag_3", "hashtag-4"], ()),
    "type Custom": ("Custom", ["HTO_A", "HTO_B", "HTO_C", "HTO_D"], ()),
    "named in the sheet": (
        "Antibody Capture",
        ["patient_1", "patient_2", "patient_3", "patient_4"],
        ("patient_1", "patient_2", "patient_3", "patient_4"),
    ),
}


def table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "name", "type"])


def joint(folder: Path, kind: str, names: list[str], n: int = 300) -> tuple[Path, np.ndarray, np.ndarray]:
    """Write an h5 of genes, two antibodies and four tags."""
    counts, donor, doublet = mixed(n)
    rng = np.random.default_rng(1)
    genes = rng.poisson(2.0, (n, 120))
    antibodies = rng.poisson(20.0, (n, 2))
    features = [(f"ENSG{i:011d}", f"G{i}", "Gene Expression") for i in range(120)]
    features += [("CD3", "CD3", "Antibody Capture"), ("CD19", "CD19", "Antibody Capture")]
    features += [(f"tag{i}", name, kind) for i, name in enumerate(names)]
    matrix = sparse.csr_matrix(np.hstack([genes, antibodies, counts]))
    path = write_10x(folder / "all.h5", matrix, barcodes(n), table(features))
    return path, donor, doublet


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    kind, names, given = LAYOUTS[name]
    path, donor, doublet = joint(tmp_path, kind, names)
    tags = read_hashtags(path, names=given)
    assert tags.var_names.tolist() == names and tags.n_obs == 300
    assert tags.X.sum() == mixed(300)[0].sum()
    result = demultiplex(tags, "s").table["hashtag"].to_numpy()
    assert (result == np.array(names)[donor])[~doublet].mean() > 0.95


def test_files_of_tags_alone(tmp_path):
    """CITE-seq-Count's folder with its row of the unassigned, and an h5ad whose features are donors' names."""
    counts, _, _ = mixed(50)
    cells = [name.removesuffix("-1") for name in barcodes(50)]
    folder = tmp_path / "umi_count"
    folder.mkdir()
    entries = sparse.coo_matrix(np.column_stack([counts, np.full(50, 7)]).T)
    with gzip.open(folder / "matrix.mtx.gz", "wt") as handle:
        handle.write(f"%%MatrixMarket matrix coordinate integer general\n5 50 {entries.nnz}\n")
        handle.writelines(f"{i + 1} {j + 1} {v}\n" for i, j, v in zip(entries.row, entries.col, entries.data))
    for name, lines in (
        ("features", ["HTO1-ACCC", "HTO2-GGTC", "HTO3-CTTG", "HTO4-AAAG", "unmapped"]),
        ("barcodes", cells),
    ):
        with gzip.open(folder / f"{name}.tsv.gz", "wt") as handle:
            handle.write("\n".join(lines) + "\n")
    tags = read_hashtags(folder)
    assert tags.var_names.tolist() == ["HTO1-ACCC", "HTO2-GGTC", "HTO3-CTTG", "HTO4-AAAG"]
    assert (tags.X.toarray() == counts).all()
    write_h5ad(tmp_path / "t.h5ad", sparse.csr_matrix(counts), barcodes(50), ["anna", "ben", "cleo", "dan"])
    assert read_hashtags(tmp_path / "t.h5ad").var_names.tolist() == ["anna", "ben", "cleo", "dan"]


def test_without_tags_the_remedy_is_tried(tmp_path):
    path, _, _ = joint(tmp_path, "Antibody Capture", ["patient_1", "patient_2", "patient_3", "patient_4"])
    with pytest.raises(InputError, match="holds no hashtag") as caught:
        read_hashtags(path)
    assert "name the features instead" in caught.value.remedy
    assert read_hashtags(path, names=tag_names("patient_1| patient_2")).n_vars == 2
    with pytest.raises(InputError, match="there is no feature 'patient_9'") as caught:
        read_hashtags(path, names=["patient_1", "patient_9"])
    assert "CD3" in caught.value.remedy or "patient_1" in caught.value.remedy


@pytest.mark.parametrize("step", ["rna", "protein"])
def test_qc_puts_donors_into_obs_and_flags_doublets(tmp_path, step):
    path, donor, doublet = joint(tmp_path, "Multiplexing Capture", NAMES)
    arguments = [str(path), "--sample", "s", "--mad", "0", "--hto", str(path), "--output", str(tmp_path / "x.h5ad")]
    command = {"rna": qc_rna, "protein": qc_protein}[step]
    done = CliRunner().invoke(command, [*arguments, "--qc", str(tmp_path / "qc")], catch_exceptions=False)
    assert done.exit_code == 0 and "hashtags: HTO1" in done.output
    cells = ad.read_h5ad(tmp_path / "x.h5ad")
    single = (cells.obs["hashtag_class"] == "singlet").to_numpy()
    assert (cells.obs["donor"].astype(str).to_numpy() == np.array(NAMES)[donor])[single & ~doublet].all()
    assert cells.obs[f"{step}_doublet"].to_numpy(bool)[doublet].mean() > 0.9
    assert cells.obs["donor"].isna().sum() == (~single).sum()
    summary = json.loads((tmp_path / "qc" / f"{step}.json").read_text())
    assert summary["hashtags"]["classes"]["singlet"] == int(single.sum())
    assert summary["doublets"]["by_hashtag"] == int((cells.obs["hashtag_class"] == "doublet").sum())


def test_tags_of_another_sample_are_refused(tmp_path):
    path, _, _ = joint(tmp_path, "Multiplexing Capture", NAMES)
    counts, _, _ = mixed(60)
    cells = [f"{'T' * 16}{i}" for i in range(60)]
    tags = table([(name, name, "Multiplexing Capture") for name in NAMES])
    other = write_10x(tmp_path / "o.h5", sparse.csr_matrix(counts), cells, tags)
    arguments = [str(path), "--sample", "s", "--mad", "0", "--hto", str(other), "--output", str(tmp_path / "x.h5ad")]
    done = CliRunner().invoke(qc_rna, [*arguments, "--qc", str(tmp_path / "qc")])
    assert isinstance(done.exception, InputError)
    assert "hto" in done.exception.remedy or "list that belongs" in done.exception.remedy
