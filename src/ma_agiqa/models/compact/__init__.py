"""The default model: the paper's idea in small."""
