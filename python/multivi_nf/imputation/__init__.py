"""Imputed and denoised values with error bars."""
