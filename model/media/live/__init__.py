"""Decoders of packets that arrive one by one: H.264 and Opus. They keep their state in between."""
