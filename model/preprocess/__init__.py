"""Arrays to the tensors that a checkpoint was trained on, without torch."""
