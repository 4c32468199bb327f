"""A methods paragraph with the run's own parameters, to be pasted into a manuscript."""

from __future__ import annotations

from multivi_nf import __version__
from multivi_nf.report.gather import Results


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
    if model:
        settings = {
            key: model.get(key) for key in ("n_latent", "n_hidden", "n_layers", "rna_likelihood", "fusion", "alignment")
        }
        known = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
        parts.append(f"A MultiVI model (Ashuach et al., Nat Methods 2023) was trained ({known}).")
    if results.history is not None:
        parts.append(
            f"Training ran for {len(results.history)} epochs with early stopping on the validation ELBO "
            f"at KL weight 1, seed {results.parameters.get('seed', 0)}."
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


def _unit(modality: str) -> str:
    return {"rna": "genes", "atac": "peaks", "protein": "proteins"}[modality]
