"""The task avdigits: a handwritten digit that is shown while it is spoken."""
