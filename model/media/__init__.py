"""Bytes of clips to arrays, without torch and within limits."""
