"""Semantic vectors kept on disk: extracted once, found by the content of the image."""
