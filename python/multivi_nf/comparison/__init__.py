"""Contrasts: features that differ between groups of cells, observed or imputed."""
