"""Scores with known answers: metrics, splits, baselines, negative controls. Numpy only: no torch, no model.

`metrics` scores embeddings, imputations, uncertainties and effects; `splits` hides what is to be predicted;
`baselines` are what a score has to beat; `controls` break what a model must not do without; `mosaics` scores the
output of a pipeline run. Definitions follow the protocol in docs/explanation/evaluation.md.
"""

from __future__ import annotations
