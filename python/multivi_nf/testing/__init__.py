"""Makers of small inputs, mosaics, models and results, and plain oracles.

Tests of the package, and of code around it, are built on them; no step imports them.

`files`, `layouts`
    Count matrices as 10x and many other tools write them, with known counts.
`fragments_made`, `fragments_oracle`, `fragments_fuzz`
    Fragments files with their truth; what such a file means, the slow and plain way; mutated files held to it.
`parts`
    Modalities of samples as QC leaves them, and the mosaic that they make.
`mosaics`, `models`
    Mosaics with known structure, and models whose values can be computed by hand.
`results`
    A results folder as a finished run leaves it.
"""
