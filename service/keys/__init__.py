"""API keys: their files, their strength, and their reload."""
