"""Clips of no class: to train with, and to measure how many are answered."""
