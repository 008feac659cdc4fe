"""The process itself: cores, garbage collection, imports, signals."""
