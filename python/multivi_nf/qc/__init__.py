"""Which cells stay, per sample and modality, and why the others do not; doublets are flagged, never removed here."""
