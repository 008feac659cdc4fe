"""Several processes of one service: HTTP workers, and the engine process that starts them."""
