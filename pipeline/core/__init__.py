"""Values, operators and the graph: the types that every other package uses."""
