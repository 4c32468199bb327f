"""Results for other tools: modalities that stand alone, h5ad, tables, markers. No torch in it."""
