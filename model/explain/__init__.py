"""Explanations of an answer: contributions of streams, attention maps, overlays."""
