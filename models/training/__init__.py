"""Training: targets, augmented patches, losses, and the training loop."""
