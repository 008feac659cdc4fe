"""What an answer rests on: contributions, attention maps, overlays."""
