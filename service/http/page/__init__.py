"""The page at `/`: static files of our own, and what they need to know of the settings."""
