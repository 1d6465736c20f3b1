"""Rewritings that bring a file's graph to the one form that is lowered."""
