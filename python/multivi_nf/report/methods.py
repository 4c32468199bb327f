"""A methods paragraph with the run's own parameters, to be pasted into a manuscript."""

from __future__ import annotations

from multivi_nf import __version__
from multivi_nf.report.gather import Results

ARCHITECTURE = (
    *("n_latent", "n_hidden", "n_layers", "rna_likelihood", "dispersion", "fusion", "alignment", "alignment_weight"),
    *("adversary", "adversary_weight", "cross_reconstruction", "batch_integration"),
)
TRAINING = ("max_epochs", "batch_size", "learning_rate", "precision", "device", "processes", "seed")


def methods_text(results: Results) -> str:
    """Sentences on what was done, with the values that were used."""
    cells, model = results.cells, results.model
    parts = [f"Cells were processed with multivi-nf {__version__}."]
    kinds = (
        ", ".join(f"{n:,} {kind}" for kind, n in cells["modality"].astype(str).value_counts().items())
        if "modality" in cells
        else ""
    )
    features = ", ".join(f"{n:,} {_unit(m)}" for m, n in results.features.items())
    parts.append(f"After quality control the mosaic held {len(cells):,} cells ({kinds}) and {features}.")
    if "atac" in results.features:
        strategy = results.parameters.get("count_strategy", "fragment")
        parts.append(
            f"Accessibility was counted by {strategy} on one peak set for all samples and binarised for the model."
        )
    if model is not None:
        architecture = _values(model.model, ARCHITECTURE)
        parts.append(f"A MultiVI model (Ashuach et al., Nat Methods 2023) was trained ({architecture}).")
    if results.history is not None:
        parts.append(
            f"Training ran for {len(results.history)} epochs with early stopping on the validation ELBO at KL weight 1 "
            f"({_values({} if model is None else model.training, TRAINING)})."
        )
    if results.imputed:
        samples = results.parameters.get("posterior_samples", 80)
        parts.append(
            f"Imputed values are posterior means over {samples} samples of the latent "
            "under the reference mixture of batches."
        )
    if results.contrasts:
        parts.append(
            "Differential features were tested with the model's posterior of the difference between group means "
            f"at an expected false discovery rate of {results.parameters.get('fdr', 0.05)}."
        )
    return " ".join(parts)


def _values(settings: dict[str, object], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {settings[name]}" for name in names if settings.get(name) is not None)


def _unit(modality: str) -> str:
    return {"rna": "genes", "atac": "peaks", "protein": "proteins"}[modality]
