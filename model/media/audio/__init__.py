"""The sound of files and of containers' audio tracks."""
