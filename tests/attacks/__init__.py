"""Attacks on a running service, and how good clips fare beside them."""
