"""The task handsigns: a digit that is shown by hand while it is spoken."""
