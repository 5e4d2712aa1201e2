"""What turns an image into a score: networks, their preprocessing, their checkpoints."""
