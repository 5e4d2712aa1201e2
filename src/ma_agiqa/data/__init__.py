"""Data: which images, which human scores, which split."""
