"""Several processes on one piece of work."""
