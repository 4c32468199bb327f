"""The runs of `verdict_table.py` by name."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.quality.verdict_runs import (
    AMBIENT,
    BATCHES,
    CONTRASTS,
    COUNTS,
    DEPTH,
    DOUBLETS,
    FEATURES,
    LABELS,
    MIXED,
    PAIRS,
    SIZES,
    SUPPORT,
    TRAINED,
    VIEWS,
    Made,
    Run,
    Samples,
    bridged,
    driven_by_depth,
    empty_droplets,
    in_soup,
    isotype_noise,
    of_set,
    one_batch,
    relabelled,
    renamed,
    shuffled_pairs,
    simulated,
    two_sites,
    with_doublets,
    without,
)

RNA = {"rna": "h5"}
CITE = {"rna": "h5", "protein": True}
APART = {"alignment": "none", "adversary": "none", "cross_reconstruction": 0.0, "batch_integration": 0.0}
SHORT = {"max_epochs": 30}


def changed(samples: Samples, name: str, modality: str, what, *arguments) -> Samples:
    """A sample's modality changed in place."""
    what(samples[name].parts[modality], *arguments)
    return samples


def strong(seed: int) -> Samples:
    return two_sites(seed, 350, replace(SIZES, batch_effect=1.2), **RNA)


def lone_type(seed: int) -> Samples:
    """Cells with RNA alone hold types that no pair has."""
    return without(bridged(seed, 420, 250), "pairs", ("type_1", "type_2", "type_5"))


def three_labelled(seed: int, permuted: tuple[str, ...]) -> Samples:
    made = [Made(f"s{k}", f"site_{1 + k % 2}", f"d{k}", 220, **RNA) for k in range(4)]
    samples = simulated(seed, made)
    for name, sample in samples.items():
        sample.batch = name
    return relabelled(samples, seed, permuted, ("s3",))


def one_label(seed: int) -> Samples:
    samples = two_sites(seed, 300, **RNA)
    samples["s1"].parts["rna"].obs["cell_type"] = "T"
    return relabelled(samples, seed, (), ("s2",))


def unpaired(seed: int) -> Samples:
    samples = bridged(seed, 40, 400)
    del samples["pairs"]
    return relabelled(samples, seed, (), ("atac",))


RUNS: dict[str, Run] = {
    "one_lab_apart": Run(strong, BATCHES, {"batch_integration": 0.0}, SHORT),
    "two_labs_apart_real": Run(
        lambda s: of_set("G", {"A": 474, "K": 500}, ("rna",), s),
        BATCHES,
        {"batch_integration": 0.0},
        SHORT,
        real=True,
    ),
    "two_epochs": Run(lambda s: two_sites(s, 300, **RNA), TRAINED, {}, {"max_epochs": 2}),
    "cap_while_falling": Run(
        lambda s: two_sites(s, 300, **RNA), TRAINED, {}, {"max_epochs": 12, "learning_rate": 3e-4}
    ),
    "pairs_shuffled": Run(lambda s: shuffled_pairs(one_batch(two_sites(s, 300)), s), VIEWS, {}, SHORT),
    "pairs_shuffled_in_one_sample": Run(lambda s: shuffled_pairs(two_sites(s, 300), s, ("s2",)), VIEWS, {}, SHORT),
    "labels_at_chance": Run(lambda s: three_labelled(s, ("s0", "s1", "s2")), LABELS, {}, SHORT, labels="cell_type"),
    "labels_of_a_batch_wrong": Run(lambda s: three_labelled(s, ("s1",)), LABELS, {}, SHORT, labels="cell_type"),
    "one_label": Run(one_label, LABELS, {}, SHORT, labels="cell_type"),
    "modalities_apart": Run(lambda s: bridged(s, 30, 300), MIXED, APART | {"n_latent": 25}, {"max_epochs": 60}),
    "depth_driven": Run(lambda s: driven_by_depth(one_batch(two_sites(s, 350, **RNA)), s), DEPTH, {}, SHORT),
    "ambient_half_real": Run(
        lambda s: in_soup(of_set("Q", {"A": 800}, ("rna",), s), 0.5, s), AMBIENT, {}, {"max_epochs": 20}, real=True
    ),
    "ambient_half_marrow_real": Run(
        lambda s: in_soup(of_set("B", {"s1d1_cite": 302, "s1d2_cite": 215}, ("rna",), s), 0.5, s),
        AMBIENT,
        {},
        SHORT,
        real=True,
    ),
    "doublets_40_real": Run(
        lambda s: with_doublets(of_set("P", {"B_p1_0": 400, "B_p3_0": 400}, ("rna",), s), 0.4, s),
        DOUBLETS,
        {},
        SHORT,
        real=True,
    ),
    "pairs_30": Run(lambda s: bridged(s, 30, 300), PAIRS, {}, SHORT),
    "unpaired_only": Run(unpaired, PAIRS, {}, SHORT, labels="cell_type"),
    "type_without_pairs": Run(lone_type, SUPPORT, {}, SHORT),
    "genes_swapped_in_a_batch": Run(
        lambda s: changed(two_sites(s, 300, **RNA), "s2", "rna", renamed, s), FEATURES, {}, SHORT
    ),
    "tiny_cells": Run(lambda s: two_sites(s, 350, replace(SIZES, rna_counts=4.0), **RNA), COUNTS, {}, SHORT),
    "sample_of_empty_droplets": Run(
        lambda s: changed(two_sites(s, 350, **RNA), "s2", "rna", empty_droplets, s, 0.2), COUNTS, {}, SHORT
    ),
    "atac_of_low_depth": Run(lambda s: two_sites(s, 350, replace(SIZES, atac_fragments=25.0)), COUNTS, {}, SHORT),
    "protein_all_noise": Run(
        lambda s: changed(
            one_batch(simulated(s, [Made("s1", "site_1", "d1", 500, **CITE)])), "s1", "protein", isotype_noise, s
        ),
        COUNTS,
        {},
        SHORT,
    ),
    "no_contrast_possible": Run(
        lambda s: one_batch(two_sites(s, 250, **RNA)), CONTRASTS, {}, SHORT, (("rna", "batch", "each", "rest"),)
    ),
    "batch_is_condition": Run(
        lambda s: two_sites(s, 250, **RNA), CONTRASTS, {}, SHORT, (("rna", "donor", "d1", "d2"),)
    ),
    # ------------------------------------------------------------------------------------------------ good ones
    "good_multiome": Run(lambda s: two_sites(s, 560)),
    "good_multiome_few_genes": Run(lambda s: two_sites(s, 560, replace(SIZES, genes=250, peaks=3000))),
    "good_multiome_many_genes": Run(lambda s: two_sites(s, 400, replace(SIZES, genes=1500, peaks=1000))),
    "good_mosaic": Run(lambda s: bridged(s, 1080, 150), contrasts=(("rna", "cluster", "each", "rest"),)),
    "good_rna": Run(lambda s: two_sites(s, 400, **RNA), labels="", contrasts=(("rna", "cluster", "each", "rest"),)),
    "good_labels": Run(lambda s: three_labelled(s, ()), labels="cell_type"),
    "good_cite": Run(lambda s: two_sites(s, 560, **CITE), training={"max_epochs": 60}),
    "good_one_type_lacks": Run(lambda s: without(two_sites(s, 500, **RNA), "s2", ("type_1",))),
    "good_two_labs_real": Run(
        lambda s: of_set("P", {"A_10x": 600, "B_p3_0": 350, "B_p4_0": 350}, ("rna", "protein"), s), real=True
    ),
    "good_bmmc_real": Run(
        lambda s: of_set("B", {"s1d1_cite": 302, "s1d2_cite": 215}, ("rna", "protein"), s), real=True
    ),
    "good_marrow_real": Run(
        lambda s: of_set("M", {"E11-MN-43": 200, "E11-MN-51": 200, "E11-MN-63": 200}, ("rna",), s), real=True
    ),
}
