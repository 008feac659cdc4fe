"""The network made fast: equal answers, fewer passes over memory."""
