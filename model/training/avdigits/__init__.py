"""The task avdigits: a digit seen while it is heard."""
