"""The research bench: a declared grid of models, data sets, splits and seeds, one honest table."""
