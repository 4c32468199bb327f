"""Map a query whose genes are caught at other rates onto a reference; same-type neighbours before and after.

    python -m benchmarks.quality.mapping [--shift 0.8 1.2 --seeds 3]

The reference has four batches, each with its own multiplicative shift of every gene (log-normal, s.d. `--shift`); the
query is a fifth, RNA only or ATAC only. Before mapping it is embedded under the code of unknown batches. Three cell
types that overlap; the score is the share of the 15 nearest reference cells that have the query cell's type.
"""

from __future__ import annotations

import argparse

import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.training import MultiVI, map_onto, train

N_TYPES = 3
SIZES = {"rna": 100, "atac": 200}


def made(n_cells: int, batches: list[str], modalities: tuple[str, ...], shift: float, seed: int, prefix: str) -> MuData:
    """Cells of three overlapping types; a third has all modalities, each other cell one."""
    rng, world = np.random.default_rng([seed, len(prefix)]), np.random.default_rng([seed, 99])
    kind, batch = rng.integers(0, N_TYPES, n_cells), rng.integers(0, len(batches), n_cells)
    names = np.array([f"{prefix}{i}" for i in range(n_cells)])
    alone = rng.integers(0, 3, n_cells)
    parts = {}
    for i, (m, n) in enumerate(SIZES.items()):
        profile = world.gamma(1, 1, n) * world.lognormal(0, 0.6, (N_TYPES, n)) + 0.05
        shifts = np.array([np.random.default_rng([seed, i, *b.encode()]).lognormal(0, shift, n) for b in batches])
        if m not in modalities:
            continue
        rows = np.flatnonzero((alone == 2) | (alone == i) | (len(modalities) == 1))
        rate = profile[kind[rows]] * shifts[batch[rows]] * rng.gamma(5, 0.2, (rows.size, 1))
        counts = rng.poisson(rate * (0.4 if m == "atac" else 2.0))
        counts = (counts > 0) if m == "atac" else counts
        var = pd.DataFrame(index=[f"{m}{j}" for j in range(n)])
        parts[m] = AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=pd.DataFrame(index=names[rows]), var=var)
    with mudata.set_options(pull_on_update=False):
        mosaic = MuData(parts)
    at = pd.Index(names).get_indexer(mosaic.obs_names)
    mosaic.obs["batch"], mosaic.obs["kind"] = np.array(batches)[batch[at]], kind[at]
    return mosaic


@torch.no_grad()
def position(model: MultiVI, mosaic: MuData) -> torch.Tensor:
    data = MosaicData(mosaic, model)
    minibatch = data.minibatch(np.arange(data.n_cells))
    return model.eval().fuse(minibatch, model.encode(minibatch)).mean


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shift", type=float, nargs="*", default=[0.8, 1.2])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("shift\tseed\tquery\treference\tbefore\tafter\treference_moved", flush=True)
    for shift in given.shift:
        for seed in range(given.seeds):
            reference = made(600, list("abcd"), ("rna", "atac"), shift, seed, "r")
            model = MultiVI.from_mosaic(reference, n_hidden=32, n_latent=8)
            train(model, reference, max_epochs=60, batch_size=32, learning_rate=4e-3, device="cpu", quiet=True)
            z, kind = position(model, reference), reference.obs["kind"].to_numpy()

            def score(query_z: torch.Tensor, query: MuData, z=z, kind=kind) -> float:
                near = torch.cdist(query_z, z).topk(15, largest=False).indices.numpy()
                return float((kind[near] == query.obs["kind"].to_numpy()[:, None]).mean())

            for modality in ("rna", "atac"):
                query = made(300, ["new"], (modality,), shift, seed, "query")
                before = score(position(model, query), query)
                mapped = map_onto(model, query, max_epochs=20, batch_size=32, device="cpu", quiet=True)
                after = score(position(mapped, query), query)
                moved = float((position(mapped, reference) - z).abs().max())
                print(
                    f"{shift}\t{seed}\t{modality}\t{score(z, reference):.3f}\t{before:.3f}\t{after:.3f}\t{moved}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
