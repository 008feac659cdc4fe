"""The task folder: clips of one's own, sorted by class or listed in a table."""
