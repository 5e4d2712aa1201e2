"""What several tests share: tiny models, checkpoints and pictures."""
