"""Read headers of files before a decoding library does: sizes, counts, encryption."""
