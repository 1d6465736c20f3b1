"""Values, operators and the graph: what every other package is written in."""
