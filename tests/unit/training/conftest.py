"""Small mosaics with known structure."""

from small_mosaic import mosaic, mosaic_maker, one_thread  # noqa: F401
