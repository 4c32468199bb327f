"""What held-out pairs said about the error bars, as it is stored with the model and applied."""
