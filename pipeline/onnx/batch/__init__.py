"""Batch-axis analysis: which axis of every value holds the batch, and what depends on the batch size."""
