"""The architectures: what a checkpoint's config.json says, its weights, and the forward pass."""
