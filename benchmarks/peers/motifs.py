"""Deviations of motifs against pychromvar's, on counts small enough for its dense arrays.

    python -m benchmarks.peers.motifs ORACLE_PYTHON

ORACLE_PYTHON is the interpreter of an environment of its own: `python -m venv oracle`, in it `pip install pychromvar`.
Both get the same counts, matches and background. pychromvar gives each peak the motifs of its background peak, chromVAR
(and we) the counts of it; with permutations as background one is the other's inverse, so that numbers can be equal.
Its scores divide by the standard deviation of the sets themselves (n), ours by that of a sample (n - 1).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import sparse

from multivi_nf.regulation.motifs import deviations

ORACLE = """
import importlib, sys
import anndata, numpy as np
module = importlib.import_module("pychromvar.compute_deviations")

class AnnData(anndata.AnnData):
    def __init__(self, *given, dtype=None, **named):  # dtype is no argument any more
        super().__init__(*given, **named)

module.AnnData = AnnData
given = np.load(sys.argv[1])
data = AnnData(given["counts"].astype(np.float32))
data.varm["motif_match"], data.varm["bg_peaks"] = given["matches"].astype(np.int64), given["inverse"]
data.uns["motif_name"] = [str(k) for k in range(given["matches"].shape[1])]
np.save(sys.argv[2], np.asarray(module.compute_deviations(data, n_jobs=1).X))
"""


def main() -> None:
    rng = np.random.default_rng(0)
    cells, peaks, motifs, sets = 300, 2000, 40, 50
    rate = rng.gamma(0.5, 0.4, peaks) * np.exp(rng.normal(0, 0.5, (3, peaks)))[rng.integers(0, 3, cells)]
    counts, matches = rng.poisson(rate), rng.random((peaks, motifs)) < 0.1
    background = np.stack([rng.permutation(peaks) for _ in range(sets)], axis=1)
    inverse = np.argsort(background, axis=0)
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npy"
        np.savez(given, counts=counts, matches=matches, inverse=inverse)
        subprocess.run([sys.argv[1], "-W", "ignore", "-c", ORACLE, given, found], check=True)
        theirs = np.load(found)
    ours = deviations(sparse.csr_matrix(counts), sparse.csr_matrix(matches), background)[1]
    expected = ours * np.sqrt(sets / (sets - 1))
    far, r = np.abs(theirs - expected).max(), np.corrcoef(theirs.ravel(), expected.ravel())[0, 1]
    size = f"{cells} cells x {peaks} peaks x {motifs} motifs, {sets} sets"
    print(f"{size}: largest difference {far:.2g}, correlation {r:.6f}")


if __name__ == "__main__":
    main()
