"""Decode files in memory to arrays, within limits and without torch."""
