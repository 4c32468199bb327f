"""The small mosaic whose cells contrasts compare."""

from trained import mosaic  # noqa: F401
