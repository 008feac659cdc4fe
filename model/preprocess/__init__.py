"""Convert decoded sounds and pictures to a checkpoint's input tensors, without torch."""
