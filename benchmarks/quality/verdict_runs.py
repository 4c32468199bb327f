"""Runs made to be bad in one named way, and good ones: their samples, and how the pipeline's functions run on them.

Cells are simulated (`multivi_nf.simulate`) or real (`../shared/integration/sets`). Nothing of the verdict is computed
here: a folder laid out as `--outdir` is written by the steps' own functions, and read as REPORT reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from benchmarks.places import SETS

from multivi_nf.simulate.cells import draw_sample
from multivi_nf.simulate.counts import peak_hits, peak_matrix, protein_counts, rna_counts
from multivi_nf.simulate.design import Options
from multivi_nf.simulate.design import Sample as Made
from multivi_nf.simulate.world import build_world

SIZES = Options(genes=450, peaks=1500, proteins=20, rna_counts=1500.0, atac_fragments=1600.0, effect=1.5)
MULTIOME = {"rna": "h5", "atac": True}

BATCHES, VIEWS, MIXED = (
    "Are the batches mixed?",
    "Do the two views of a pair agree?",
    "Are cells of different modalities",
)
PAIRS, DEPTH, TRAINED = "Enough paired cells?", "Is the embedding free of depth?", "Did training settle?"
SUPPORT, LABELS = "Do imputed cells have paired relatives?", "Can the labels"
DOUBLETS, AMBIENT = "Are there few doublets?", "Is there little ambient RNA?"
CONTRASTS, COUNTS, FEATURES = (
    "Could all contrasts be made?",
    "Do counts tell cells apart?",
    "Do the batches' features agree?",
)


@dataclass
class Given:
    """One sample: its batch, metadata, and a matrix a modality with `obs["cell_type"]`."""

    batch: str
    parts: dict[str, ad.AnnData]
    meta: dict[str, str] = field(default_factory=dict)


Samples = dict[str, Given]


@dataclass
class Run:
    """A run: who makes its samples, with which options it is trained, and which line must be poor ("" of a good one).

    `contrasts` are (modality, groupby, target, reference); `labels` a column to transfer.
    """

    make: Callable[[int], Samples]
    poor: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    contrasts: tuple[tuple[str, str, str, str], ...] = ()
    labels: str = ""
    real: bool = False


# ------------------------------------------------------------------------------------------------ simulated samples


def simulated(seed: int, samples: list[Made], options: Options = SIZES) -> Samples:
    """Cells of simulated samples; each `share` is its number of cells."""
    options = replace(options, seed=seed, cells=1000)
    world, out = build_world(options), {}
    for index, sample in enumerate(samples):
        group = draw_sample(replace(sample, share=sample.share / 1000), options, index)
        streams = [np.random.default_rng([seed, 3, index, k]) for k in range(2)]
        obs = group.cells[["cell_type"]].set_axis(group.cells["barcode"].to_numpy()).rename_axis(None)
        parts = {}
        if sample.rna:
            genes = world.genes
            var = pd.DataFrame({"symbol": genes["symbol"].to_numpy()}, index=genes["id"].to_numpy())
            parts["rna"] = ad.AnnData(rna_counts(streams[0], world, group), obs=obs.copy(), var=var)
        if sample.protein:
            names = world.proteins
            var = pd.DataFrame({"symbol": names["id"].to_numpy()}, index=names["id"].to_numpy())
            var["isotype"] = names["id"].str.startswith("IgG").to_numpy()
            parts["protein"] = ad.AnnData(protein_counts(streams[0], world, group), obs=obs.copy(), var=var)
        if sample.atac:
            peaks = world.peaks
            name = (peaks["chrom"] + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)).to_numpy()
            hits = peak_matrix(world, group, *peak_hits(streams[1], world, group))
            parts["atac"] = ad.AnnData(hits, obs=obs.copy(), var=pd.DataFrame({"symbol": name}, index=name))
        out[sample.name] = Given(sample.site, parts, {"donor": sample.donor})
    return out


def two_sites(seed: int, n: int = 550, options: Options = SIZES, **measured: Any) -> Samples:
    """Two samples of different sites, each a batch."""
    measured = measured or MULTIOME
    return simulated(seed, [Made(f"s{k}", f"site_{k}", f"d{k}", n, **measured) for k in (1, 2)], options)


def bridged(seed: int, pairs: int = 300, alone: int = 200, options: Options = SIZES) -> Samples:
    """Multiome, and cells with RNA or ATAC alone, at one site."""
    made = [
        Made("pairs", "site_1", "d1", pairs, **MULTIOME),
        Made("rna", "site_1", "d2", alone, rna="h5"),
        Made("atac", "site_1", "d3", alone, atac=True),
    ]
    return simulated(seed, made, options)


def one_batch(samples: Samples, batch: str = "b") -> Samples:
    for sample in samples.values():
        sample.batch = batch
    return samples


# ------------------------------------------------------------------------------------------------ real samples


def of_set(name: str, batches: dict[str, int], modalities: tuple[str, ...], seed: int = 0) -> Samples:
    """Cells of a real set, at most so many of each batch, as one sample a batch."""
    import mudata

    complete = mudata.read_h5mu(SETS / f"{name}.h5mu")
    obs, out = complete.obs, {}
    for batch, most in batches.items():
        mine = obs.index[obs["batch"].astype(str) == batch]
        mine = mine[np.sort(np.random.default_rng([seed, 7]).permutation(len(mine))[:most])]
        parts = {}
        for modality in modalities:
            if modality not in complete.mod:
                continue
            part = complete.mod[modality]
            cells = part.obs_names.intersection(mine, sort=False)
            if not len(cells):
                continue
            taken = part[cells]
            counts = sp.csr_matrix(taken.X).astype(np.int32)
            var = pd.DataFrame({"symbol": part.var_names.astype(str)}, index=part.var_names.astype(str))
            var["isotype"] = var.index.str.contains("IgG|isotype", case=False)
            label = obs.loc[cells, "lineage"].astype(str).to_numpy()
            parts[modality] = ad.AnnData(counts, obs=pd.DataFrame({"cell_type": label}, index=list(cells)), var=var)
        out[batch] = Given(batch, parts)
    return out


# ------------------------------------------------------------------------------------------------ what goes wrong


def shuffled_pairs(samples: Samples, seed: int, of: tuple[str, ...] = ()) -> Samples:
    """Each cell of these samples (all) has the ATAC or protein of another."""
    rng = np.random.default_rng([seed, 21])
    for name, sample in samples.items():
        if of and name not in of:
            continue
        for modality, part in sample.parts.items():
            if modality != "rna":
                part.X = part.X[rng.permutation(part.n_obs)]
    return samples


def relabelled(samples: Samples, seed: int, of: tuple[str, ...], unlabelled: tuple[str, ...]) -> Samples:
    """Labels of some samples permuted, of others taken away."""
    rng = np.random.default_rng([seed, 22])
    for name, sample in samples.items():
        order = None
        for part in sample.parts.values():
            if name in of:
                order = rng.permutation(part.n_obs) if order is None else order
                part.obs["cell_type"] = part.obs["cell_type"].to_numpy()[order]
            if name in unlabelled:
                part.obs["cell_type"] = "Unknown"
    return samples


def in_soup(samples: Samples, share: float, seed: int) -> Samples:
    """Of every cell's RNA counts a share is drawn from the sample's soup instead."""
    rng = np.random.default_rng([seed, 23])
    for sample in samples.values():
        part = sample.parts["rna"]
        counts = part.X.copy()
        soup = np.asarray(counts.sum(0)).ravel() / counts.sum()
        total = np.asarray(counts.sum(1)).ravel()
        counts.data = rng.binomial(counts.data, 1 - share).astype(np.int32)
        lost = total - np.asarray(counts.sum(1)).ravel()
        part.X = sp.csr_matrix(counts + sp.csr_matrix(rng.multinomial(lost.astype(int), soup)), dtype=np.int32)
    return samples


def empty_droplets(part: ad.AnnData, seed: int, depth: float) -> None:
    """Every barcode holds nothing but the soup, at a share of its depth."""
    rng = np.random.default_rng([seed, 24])
    soup = np.asarray(part.X.sum(0)).ravel() / part.X.sum()
    total = np.maximum((np.asarray(part.X.sum(1)).ravel() * depth).astype(int), 5)
    part.X = sp.csr_matrix(rng.multinomial(total, soup), dtype=np.int32)


def thinned(part: ad.AnnData, share: float, seed: int) -> None:
    counts = part.X.copy()
    counts.data = np.random.default_rng([seed, 25]).binomial(counts.data, share).astype(np.int32)
    counts.eliminate_zeros()
    empty = np.flatnonzero(np.diff(counts.indptr) == 0)
    extra = sp.csr_matrix((np.ones(len(empty), np.int32), (empty, empty % counts.shape[1])), shape=counts.shape)
    part.X = sp.csr_matrix(counts + extra, dtype=np.int32)


def with_doublets(samples: Samples, share: float, seed: int) -> Samples:
    """A share of each sample's barcodes holds two cells."""
    rng = np.random.default_rng([seed, 26])
    for sample in samples.values():
        n = next(iter(sample.parts.values())).n_obs
        hosts, guests = np.split(rng.permutation(n)[: 2 * int(share * n / (1 + share))], 2)
        keep = np.setdiff1d(np.arange(n), guests)
        for modality, part in sample.parts.items():
            both = part.X.tolil()
            both[hosts] = part.X[hosts] + part.X[guests]
            part = part.copy()
            part.X = sp.csr_matrix(both, dtype=np.int32)
            sample.parts[modality] = part[keep].copy()
    return samples


def renamed(part: ad.AnnData, seed: int) -> None:
    """The same counts under permuted feature names."""
    part.X = part.X[:, np.random.default_rng([seed, 27]).permutation(part.n_vars)]


def without(samples: Samples, name: str, types: tuple[str, ...]) -> Samples:
    sample = samples[name]
    for modality, part in sample.parts.items():
        sample.parts[modality] = part[~part.obs["cell_type"].isin(types).to_numpy()].copy()
    return samples


def driven_by_depth(samples: Samples, seed: int) -> Samples:
    """Cells of one profile, lysed to different degrees: depth falls 30-fold and what is left drifts with it."""
    rng = np.random.default_rng([seed, 28])
    for sample in samples.values():
        part = sample.parts["rna"]
        pooled = np.asarray(part.X.sum(0)).ravel() + 1.0
        drift = rng.normal(0, 1.5, part.n_vars)
        degree = rng.random(part.n_obs)
        profile = pooled * np.exp(np.outer(degree, drift))
        total = (3000 * np.exp(-3.4 * degree)).astype(int) + 30
        profile /= profile.sum(1, keepdims=True)
        part.X = sp.csr_matrix(np.stack([rng.multinomial(n, p) for n, p in zip(total, profile)]), dtype=np.int32)
    return samples


def isotype_noise(part: ad.AnnData, seed: int) -> None:
    """Antibodies that bind nothing: background of one profile, more of it on stickier cells."""
    rng = np.random.default_rng([seed, 29])
    profile = rng.gamma(2.0, 1.0, part.n_vars)
    part.X = sp.csr_matrix(rng.poisson(15 * rng.lognormal(0, 0.4, (part.n_obs, 1)) * profile), dtype=np.int32)


# ------------------------------------------------------------------------------------------------ the steps


def checked_parts(samples: Samples, folder: Path, seed: int) -> list[Path]:
    """QC of every sample's modalities, written as the QC steps write it."""
    from multivi_nf.qc.atac import AtacRules, qc_atac
    from multivi_nf.qc.checked import write_checked
    from multivi_nf.qc.protein import qc_protein
    from multivi_nf.qc.rna import RnaRules, qc_rna

    paths = []
    for name, sample in samples.items():
        for modality, part in sample.parts.items():
            part.X = sp.csr_matrix(part.X)
            steps = {
                "rna": lambda: qc_rna(part, name, RnaRules(seed=seed)),  # noqa: B023
                "atac": lambda: qc_atac(part, name, AtacRules(seed=seed)),  # noqa: B023
                "protein": lambda: qc_protein(part, name),  # noqa: B023
            }
            paths.append(folder / f"{name}.{modality}.h5ad")
            write_checked(steps[modality](), paths[-1], folder / "qc" / name)
    return paths


def make_run(run: Run, seed: int, outdir: Path) -> None:
    """From samples to a folder of results: QC, MOSAIC, TRAIN, CALIBRATE, EMBED, DIFFERENTIAL."""
    from multivi_nf.calibration.stored import support_columns
    from multivi_nf.comparison.compare import differential
    from multivi_nf.comparison.tables import empty_table
    from multivi_nf.export.modalities import fill_modalities
    from multivi_nf.held_out.calibrate import calibrate
    from multivi_nf.inputs.contrasts import NothingToCompare
    from multivi_nf.inputs.samplesheet import FILE_COLUMNS, Sample
    from multivi_nf.io.tables import write_table
    from multivi_nf.latent.annotate import annotate
    from multivi_nf.latent.cells import cells_of
    from multivi_nf.latent.embed import embed
    from multivi_nf.mosaic.build import MosaicRules, build_mosaic
    from multivi_nf.mosaic.read import read_mosaic
    from multivi_nf.training import MultiVI, train

    samples = run.make(seed)
    for folder in ("parts", "model", "differential", "pipeline_info"):
        (outdir / folder).mkdir(parents=True, exist_ok=True)
    paths = checked_parts(samples, outdir, seed)
    sheet = []
    for name, given in samples.items():
        files = dict.fromkeys(FILE_COLUMNS) | {m: f"{name}.{m}" for m in given.parts}
        sheet.append(Sample(name, given.batch, files, given.meta))
    build_mosaic(paths, sheet, outdir / "mosaic.h5mu", MosaicRules(seed=seed))
    mosaic = read_mosaic(outdir / "mosaic.h5mu")
    model = MultiVI.from_mosaic(mosaic, seed=seed, **run.model)
    train(model, mosaic, seed=seed, quiet=True, device="cpu", **run.training)
    model.save(outdir / "model")
    calibration = calibrate(model, mosaic, seed=seed)
    calibration.save(outdir / "model")
    support = support_columns(calibration, model.modalities, cells_of(model, mosaic), model)
    found = embed(model, mosaic)
    annotate(mosaic, found, labels=run.labels or None, support=support, split=model.split, seed=seed)
    fill_modalities(mosaic)
    mosaic.write_h5mu(outdir / "multivi.h5mu")
    for k, (modality, groupby, target, reference) in enumerate(run.contrasts):
        try:
            table = differential(
                model,
                mosaic,
                modality,
                groupby=groupby,
                target=target,
                reference=reference,
                calibration=calibration,
                seed=seed,
                n_samples=200,
            )
        except NothingToCompare:  # as DIFFERENTIAL does with contrasts that nobody asked for
            table = empty_table(target)
        write_table(table, outdir / "differential" / f"{k}_{groupby}_{modality}.tsv.gz")
    info = {"seed": seed, "max_epochs": run.training.get("max_epochs")}
    (outdir / "pipeline_info" / "params.json").write_text(json.dumps(info))
    for path in (*paths, outdir / "mosaic.h5mu"):
        path.unlink()
