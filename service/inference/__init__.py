"""Served checkpoints: loading, queues, batches."""
