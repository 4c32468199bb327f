"""`multivi-nf evaluate` on outputs whose quality is known: an oracle's latent space, a random one, an unmixed one."""

from __future__ import annotations

import json
from dataclasses import replace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from click.testing import CliRunner

from multivi_nf.benchmark.scoring import Views, hidden_truth, score_atac, score_embedding, score_rna
from multivi_nf.benchmark.splits import random_unpairing, strict_unpairing
from multivi_nf.commands.evaluate import command
from multivi_nf.errors import InputError
from multivi_nf.simulate import PRESETS, read_truth
from multivi_nf.simulate.cells import draw_cells
from multivi_nf.simulate.counts import peak_hits, peak_matrix, rna_counts
from multivi_nf.simulate.truth import write_truth
from multivi_nf.simulate.world import build_world


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A mosaic as MOSAIC would write it, straight from the simulator, and its truth folder."""
    options = replace(PRESETS["test"], cells=600)
    world, groups = build_world(options), draw_cells(options)
    rna, atac = [], []
    rng = np.random.default_rng(5)
    for group in groups:
        obs = pd.DataFrame(index=group.cells.index)
        if group.sample.rna:
            rna.append(anndata.AnnData(rna_counts(rng, world, group), obs, pd.DataFrame(index=world.genes["id"])))
        if group.sample.atac:
            counts = peak_matrix(world, group, *peak_hits(rng, world, group))
            atac.append(anndata.AnnData((counts > 0).astype(np.int32), obs.copy()))
    parts = {"rna": anndata.concat(rna), "atac": anndata.concat(atac)}
    mosaic = mudata.MuData(parts)
    folder = tmp_path_factory.mktemp("truth")
    write_truth(folder, world, groups)
    truth = read_truth(folder)
    mosaic.obs["batch"] = truth.cells.loc[mosaic.obs_names, "site"].to_numpy()
    mosaic.obs["type"] = truth.cells.loc[mosaic.obs_names, "cell_type"].to_numpy()
    has = {m: mosaic.obs_names.isin(parts[m].obs_names) for m in parts}
    mosaic.obs["modality"] = np.where(has["rna"] & has["atac"], "rna+atac", np.where(has["rna"], "rna", "atac"))
    return mosaic, folder, truth


def with_latent(mosaic, latent):
    """The mosaic with this latent space, each modality's view a little off it."""
    out = mosaic.copy()
    rng = np.random.default_rng(1)
    out.obsm["X_multivi"] = latent.astype(np.float32)
    out.obsm["X_multivi_variance"] = np.full(latent.shape, 0.1, np.float32)
    for modality in ("rna", "atac"):
        view = latent + 0.01 * rng.normal(size=latent.shape)
        view[~out.obs_names.isin(out[modality].obs_names)] = np.nan
        out.obsm[f"X_multivi_{modality}"] = view.astype(np.float32)
    return out


def run(mosaic, tmp_path, *arguments):
    mosaic.write(tmp_path / "multivi.h5mu")
    result = CliRunner().invoke(
        command,
        ["--mosaic", str(tmp_path / "multivi.h5mu"), "--output", str(tmp_path / "e.json"), *arguments],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    content = json.loads((tmp_path / "e.json").read_text())
    for score in content["scores"]:
        assert score["name"] in result.output
    return {score["name"]: score for score in content["scores"]}


def test_an_oracle_scores_near_perfect(simulated, tmp_path):
    mosaic, folder, truth = simulated
    rows = truth.rows(mosaic.obs_names)
    good = with_latent(mosaic, truth.states[rows][:, :10] * 3)
    good.obs["cluster"] = good.obs["type"]
    (tmp_path / "model").mkdir()
    cells = mosaic.obs_names
    roles = np.where(np.arange(len(cells)) % 5 == 0, "calibration", "train")
    pd.DataFrame({"cell": cells, "split": roles}).to_csv(tmp_path / "model/split.tsv", sep="\t", index=False)
    scores = run(good, tmp_path, "--truth", str(folder), "--model", str(tmp_path / "model"))
    assert scores["clusters, ARI"]["value"] == 1
    rna = scores["Leiden ARI, rna cells"]
    assert rna["value"] > 0.5
    assert rna["value"] > rna["beside"]["RNA PCA"]
    assert scores["mixing of modalities, LISI ratio"]["value"] > 0.7
    assert scores["FOSCTTM, paired cells"]["value"] < 0.1
    held = scores["FOSCTTM, held-out pairs"]["beside"]["cells"]
    assert 0 < held < scores["FOSCTTM, paired cells"]["beside"]["cells"]
    assert scores["15-NN type purity, atac view"]["value"] > 0.8
    assert scores["types carried from RNA to ATAC, F1"]["value"] > 0.8
    assert scores["active latent dimensions"]["value"] == 10


def test_noise_and_unmixed_spaces_score_as_such(simulated, tmp_path):
    mosaic, folder, _ = simulated
    rng = np.random.default_rng(2)
    latent = rng.normal(size=(mosaic.n_obs, 5))
    noise = run(with_latent(mosaic, latent), tmp_path, "--truth", str(folder))
    assert noise["Leiden ARI, rna cells"]["value"] < 0.1
    assert noise["mixing of modalities, LISI ratio"]["value"] == pytest.approx(1, abs=0.15)
    apart = latent + 100.0 * (mosaic.obs["modality"] == "rna").to_numpy()[:, None]
    apart += 500.0 * (mosaic.obs["modality"] == "atac").to_numpy()[:, None]
    separate = run(with_latent(mosaic, apart), tmp_path, "--labels", "type")
    assert separate["mixing of modalities, LISI ratio"]["beside"]["scaled"] < 0.05


def test_a_modality_without_labels_is_said_and_the_rest_is_scored(simulated, tmp_path):
    mosaic, _, truth = simulated
    partial = with_latent(mosaic, truth.states[truth.rows(mosaic.obs_names)][:, :10] * 3)
    partial.obs["type"] = partial.obs["type"].astype(object)
    partial.obs.loc[partial["atac"].obs_names, "type"] = None
    scores = run(partial, tmp_path, "--labels", "type")
    assert scores["Leiden ARI, rna cells"]["value"] > 0.5
    assert not [name for name in scores if "atac" in name.lower() or "FOSCTTM" in name]
    (line,) = json.loads((tmp_path / "e.json").read_text())["not_scored"]
    assert line.startswith("cells by atac: 0 of ")
    assert all(np.isfinite([score["value"], *score["beside"].values()]).all() for score in scores.values())
    partial.obs["type"] = ""
    with pytest.raises(InputError, match="too few cells carry a label"):
        run(partial, tmp_path, "--labels", "type")


def test_imputed_truth_beats_the_profile_and_the_profile_itself_has_no_skill(simulated, tmp_path):
    mosaic, folder, truth = simulated
    names = mosaic.obs_names
    data = with_latent(mosaic, np.random.default_rng(0).normal(size=(len(names), 4)))
    # Imputed values are those of the sites that measured RNA, by their cells, over the genes of the mosaic
    first = (truth.cells.loc[mosaic["rna"].obs_names, "site"] == "site_1").mean()
    genes = truth.genes.index.get_indexer(mosaic["rna"].var_names)
    true = np.zeros((len(names), len(truth.genes)))
    for site, share in enumerate((first, 1 - first)):
        logs = truth.states[truth.rows(names)] @ truth.features["rna"].loadings + truth.features["rna"].base
        rate = np.exp(logs + truth.features["rna"].site[site])[:, genes]
        true[:, genes] += share * 1e4 * rate / rate.sum(1, keepdims=True)
    assert 0.1 < first < 0.9
    obs = pd.DataFrame({"measured": names.isin(mosaic["rna"].obs_names)}, index=names)
    perfect = anndata.AnnData(true.astype(np.float32), obs, pd.DataFrame(index=truth.genes.index))
    perfect.layers["lower"], perfect.layers["upper"] = perfect.X * 0.99, perfect.X * 1.01
    perfect.write_zarr(tmp_path / "rna.zarr")
    score = run(data, tmp_path, "--truth", str(folder), "--imputed", str(tmp_path / "rna.zarr"))
    found = score["imputed RNA, Spearman per gene"]
    assert found["value"] == pytest.approx(1, abs=1e-3)
    assert found["beside"]["skill over mean profile"] == pytest.approx(1, abs=1e-3)
    assert found["beside"]["true means in the 95 % interval"] == 1


def test_what_cannot_be_scored_is_refused(simulated, tmp_path):
    mosaic, folder, _ = simulated
    bare = mosaic.copy()
    bare.write(tmp_path / "bare.h5mu")
    base = ["--mosaic", str(tmp_path / "bare.h5mu"), "--output", str(tmp_path / "x.json")]

    def refused(*arguments):
        with pytest.raises(InputError) as error:
            command.main([*base, *arguments], standalone_mode=False)
        assert not (tmp_path / "x.json").exists()
        return str(error.value)

    assert "neither --truth nor --labels" in refused()
    assert "both given" in refused("--truth", str(folder), "--labels", "type")
    assert "has no obsm['X_multivi']" in refused("--labels", "type")
    assert "--labels 'nope' is not a column" in refused("--labels", "nope")
    assert "does not exist" in refused("--labels", "type", "--model", str(tmp_path / "none"))


def test_scores_of_a_split_know_truth_from_noise(simulated):
    mosaic, _, truth = simulated
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    complete = {m: mosaic[m][both].copy() for m in ("rna", "atac")}
    for part in complete.values():
        part.obs["batch"] = "one"
    labels = truth.cells.loc[both, "cell_type"]
    split = random_unpairing(complete, 0.3, labels=labels)
    state = pd.DataFrame(truth.states[truth.rows(pd.Index(split.origin)), :10] * 2, index=split.origin.index)
    shown = {m: state.loc[split.mosaic[m].obs_names] for m in complete}
    good = score_embedding(split, Views(state, shown, state * 0 + 0.1), labels)
    assert good["foscttm"] < 0.1
    assert good["purity_rna_ratio"] > 1
    assert good["active_dimensions"] > 5
    noise = pd.DataFrame(np.random.default_rng(0).normal(size=state.shape), index=state.index)
    bad = score_embedding(split, Views(noise, {m: noise.loc[f.index] for m, f in shown.items()}), labels)
    assert bad["foscttm"] == pytest.approx(0.5, abs=0.05)
    assert bad["purity_atac"] < 0.3

    # what ATAC alone leaves uncertain draws its means towards the middle: honest draws still mix with the others'
    rng = np.random.default_rng(1)
    known = (split.modalities[state.index] != "atac").to_numpy()[:, None]
    latent = rng.normal(size=(len(state), 3))
    mean = pd.DataFrame(np.where(known, 0.95, 0.4) * latent, index=state.index)
    variance = pd.DataFrame(np.where(known, 1 - 0.95**2, 1 - 0.4**2) + 0 * latent, index=state.index)
    honest = score_embedding(split, Views(mean, {m: mean.loc[f.index] for m, f in shown.items()}, variance), labels)
    assert honest["lisi_ratio"] < 0.9
    assert honest["lisi_ratio_draws"] == pytest.approx(1, abs=0.06)

    strict = strict_unpairing(complete, 0.3, labels=labels)
    hidden = hidden_truth(strict, complete, "rna", "atac")
    true = truth.expression(pd.Index(strict.origin[hidden.cells]))
    true = true[:, truth.genes.index.get_indexer(strict.mosaic["rna"].var_names)]
    constant = np.broadcast_to(hidden.reference, true.shape)
    assert score_rna(hidden, true)["nb_skill"] > 0.1
    assert score_rna(hidden, true)["gene_spearman"] > 0.3
    assert score_rna(hidden, constant)["nb_skill"] == pytest.approx(0, abs=1e-9)
    hidden = hidden_truth(strict, complete, "atac", "rna")
    opened = truth.accessibility(pd.Index(strict.origin[hidden.cells]))
    opened = opened[:, [int(name) for name in strict.mosaic["atac"].var_names]]
    assert score_atac(hidden, opened)["log_loss_skill"] > 0.02
    assert score_atac(hidden, opened)["peak_auroc"] > 0.6
    shuffled = opened[np.random.default_rng(0).permutation(len(opened))]
    assert score_atac(hidden, shuffled)["log_loss_skill"] < 0
    assert sp.issparse(hidden.counts)
