"""What is fitted and scored on held-out pairs: one modality hidden, predicted from the others, and compared."""
