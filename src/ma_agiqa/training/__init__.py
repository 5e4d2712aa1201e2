"""Training: recipe, batches, loss, loop."""
