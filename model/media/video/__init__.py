"""Frames of containers' video streams."""
