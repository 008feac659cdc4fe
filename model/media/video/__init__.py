"""The frames of a container's video track."""
