"""Checkpoints of a run: what is stored, who owns the folder, and which run it belongs to."""
