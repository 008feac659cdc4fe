"""avdigits-tactile."""
