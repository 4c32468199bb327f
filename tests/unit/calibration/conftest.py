"""The small mosaic and its model, shared with the other rooms behind training."""

from trained import model, mosaic  # noqa: F401
