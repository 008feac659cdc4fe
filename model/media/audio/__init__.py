"""Sound of sound files and of containers' audio streams."""
