"""Between peaks and genes: what a finished embedding and the fragments say together. No torch."""
