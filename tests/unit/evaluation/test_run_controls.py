"""`--controls`: what is permuted stays what it was otherwise, and falls to chance."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.calibration.stored import Calibration
from multivi_nf.errors import InputError
from multivi_nf.evaluation import run_controls as controls
from multivi_nf.simulate import simulated_mosaic
from multivi_nf.simulate.design import Options
from multivi_nf.training import MultiVI, train

SMALL = Options(
    cells=700, genes=120, peaks=500, proteins=6, rna_counts=800.0, atac_fragments=900.0, effect=2.2, batch_effect=0.1
)


@pytest.fixture(scope="module")
def mosaic() -> mudata.MuData:
    """Multiome of two sites, and cells of one modality; types as clusters."""
    made, _ = simulated_mosaic(SMALL)
    del made.mod["protein"]
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({name: made.mod[name] for name in ("rna", "atac")})
    for column in made.obs:
        both.obs[column] = made.obs[column].reindex(both.obs_names).array
    both.obs["cluster"] = pd.Categorical(both.obs["type"])
    return both


@pytest.fixture(scope="module")
def model(mosaic) -> MultiVI:
    built = MultiVI.from_mosaic(mosaic, n_latent=6, n_hidden=48)
    train(built, mosaic, max_epochs=40, device="cpu", quiet=True)
    return built


def test_shuffled_pairs_are_the_same_cells_of_the_same_batch_otherwise_paired(mosaic):
    shuffled = controls.shuffle_pairs(mosaic, seed=3)
    assert list(shuffled.obs_names) == list(mosaic.obs_names)
    np.testing.assert_array_equal(shuffled["rna"].X.toarray(), mosaic["rna"].X.toarray())
    before, after = (m["atac"].X.toarray() for m in (mosaic, shuffled))
    paired = mosaic["atac"].obs_names.isin(mosaic["rna"].obs_names)
    np.testing.assert_array_equal(before[~paired], after[~paired])
    batch = mosaic.obs["batch"].reindex(mosaic["atac"].obs_names).astype(str).to_numpy()
    for name in np.unique(batch):
        mine = paired & (batch == name)
        assert (before[mine] != after[mine]).any(axis=1).mean() > 0.95
        np.testing.assert_array_equal(np.sort(before[mine].sum(1)), np.sort(after[mine].sum(1)))
        np.testing.assert_array_equal(before[mine].sum(0), after[mine].sum(0))
    np.testing.assert_array_equal(shuffled["atac"].layers["counts"].toarray() > 0, after > 0)


def test_groups_are_permuted_within_batches_and_gaps_stay():
    obs = pd.DataFrame({"batch": ["a"] * 50 + ["b"] * 50, "kind": (["x"] * 10 + ["y"] * 30 + [None] * 10) * 2})
    found = controls.permuted_groups(obs, "kind", 0)
    assert (found.isna() == obs["kind"].isna()).all()
    for name in "ab":
        mine = obs["batch"] == name
        assert found[mine].value_counts().to_dict() == obs.loc[mine, "kind"].value_counts().to_dict()
    assert (found != obs["kind"])[obs["kind"].notna()].mean() > 0.2


def test_pairs_matter_to_what_pairs_make_and_permuted_groups_call_nothing(mosaic, model):
    table = controls.run_controls(model, mosaic, Calibration.none(), device="cpu")
    assert list(table.columns) == controls.COLUMNS
    rows = table.set_index("measure")
    pairs = rows.loc["FOSCTTM of held-out pairs"]
    assert pairs["result"] < 0.35 and pairs["short_run"] < 0.4 and pairs["chance"] > pairs["short_run"] + 0.05
    for target, source in (("rna", "atac"), ("atac", "rna")):
        skill = rows.loc[f"rank correlation of {target} imputed from {source}"]
        assert skill["short_run"] > skill["chance"] and skill["result"] > skill["chance"] + 0.02
    calls = rows.loc["rna features called"]
    assert calls["result"] >= 10 and calls["chance"] <= 1 and np.isnan(calls["short_run"])
    assert calls["groups"].endswith(", rest")


def test_without_pairs_contrasts_alone_have_a_control(mosaic, model, capsys):
    lone = mosaic.obs_names[mosaic.obs["modality"].astype(str) == "rna"]
    with mudata.set_options(pull_on_update=False):
        alone = mudata.MuData({"rna": mosaic["rna"][lone].copy()})
    for column in mosaic.obs:
        alone.obs[column] = mosaic.obs[column].reindex(alone.obs_names).array
    said: list[str] = []
    table = controls.run_controls(model, alone, Calibration.none(), device="cpu", say=said.append)
    assert table["measure"].tolist() == ["rna features called"]
    assert "cannot be shuffled" in said[0]
    with pytest.raises(InputError, match="no column 'kind'"):
        controls.run_controls(model, alone, Calibration.none(), groupby="kind", device="cpu")


def test_the_command_writes_the_table(mosaic, model, tmp_path, monkeypatch):
    from multivi_nf.commands.controls import command

    table = pd.DataFrame([dict.fromkeys(controls.COLUMNS, 0.25) | {"measure": "m", "control": "pairs shuffled"}])
    monkeypatch.setattr(controls, "run_controls", lambda *args, **options: table[controls.COLUMNS])
    model.save(tmp_path / "model")
    mosaic.write_h5mu(tmp_path / "multivi.h5mu")
    paths = [str(tmp_path / name) for name in ("multivi.h5mu", "model", "controls.tsv")]
    done = CliRunner().invoke(command, [*paths[:2], "--output", paths[2]], catch_exceptions=False)
    assert done.exit_code == 0 and "with pairs shuffled 0.25" in done.output
    assert pd.read_csv(paths[2], sep="\t")["result"].tolist() == [0.25]
