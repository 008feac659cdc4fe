"""The connection between HTTP workers, each a process of its own, and the engine process."""
