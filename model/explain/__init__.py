"""Explanations of an answer: contributions of streams, maps over tokens, overlays."""
