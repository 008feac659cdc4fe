"""Training and evaluation of checkpoints."""
