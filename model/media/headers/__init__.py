"""What a file's headers say of it, read before a library does: sizes, counts, encryption."""
