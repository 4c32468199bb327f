"""Parts of a mosaic as QC steps leave them, with their dense counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from multivi_nf.inputs.samplesheet import FILE_COLUMNS, Sample
from multivi_nf.io.records import as_json
from multivi_nf.mosaic.build import MosaicRules, build_mosaic
from multivi_nf.mosaic.read import read_mosaic

ENSG = [f"ENSG{n:011d}" for n in range(100)]
PEAKS = [f"chr1:{n * 1000}-{n * 1000 + 500}" for n in range(40)]


def sample(name: str, modalities: Iterable[str], batch: str | None = None, **metadata: str) -> Sample:
    """A row of the samplesheet whose modalities have a file."""
    columns = {"rna": "rna", "atac": "atac", "protein": "protein"}
    files = dict.fromkeys(FILE_COLUMNS) | {columns[m]: "x" for m in modalities}
    return Sample(name, batch or name, files, metadata)


def part(
    folder: Path,
    name: str,
    modality: str,
    cells: Sequence[str],
    features: Sequence[str],
    *,
    symbols: Sequence[str] | None = None,
    seed: int = 0,
    mean: float = 1.0,
    obs: dict[str, Any] | None = None,
    isotype: Sequence[bool] | None = None,
    strategy: str = "fragment",
    failed: Sequence[str] = (),
) -> tuple[Path, pd.DataFrame]:
    """One file as a QC step leaves it, and its dense counts."""
    rng = np.random.default_rng([seed, *map(ord, name + modality)])
    dense = rng.poisson(mean, (len(cells), len(features))).astype(np.int32)
    data = ad.AnnData(sparse.csr_matrix(dense), obs=pd.DataFrame(obs or {}, index=list(cells)))
    data.obs[f"{modality}_n_counts"] = dense.sum(1)
    data.var_names = list(features)
    data.var["symbol"] = list(features) if symbols is None else list(symbols)
    if isotype is not None:
        data.var["isotype"] = isotype
    facts = {"sample": name, "modality": modality, "notes": []}
    if modality == "atac":
        facts["counting_strategy"] = strategy
    data.uns["multivi_nf"] = json.dumps(facts)
    data.uns["failed"] = np.array(failed, dtype=str)
    path = folder / f"{name}.{modality}.h5ad"
    data.write_h5ad(path)
    return path, pd.DataFrame(dense, index=[f"{name}:{cell}" for cell in cells], columns=list(features))


def build(folder: Path, inputs: list[Path], samples: list[Sample], **options: Any) -> tuple[MuData, dict[str, Any]]:
    """Build and read the mosaic of parts; also what was recorded of it."""
    record = build_mosaic(inputs, samples, folder / "mosaic.h5mu", MosaicRules(**options))
    return read_mosaic(folder / "mosaic.h5mu"), as_json(record)
