"""Fragments files: one streaming pass for the quality of every barcode and the cells × peaks matrix."""
