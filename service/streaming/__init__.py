"""Live streams: messages of pictures and sound in, answers over a sliding window out; no HTTP."""
