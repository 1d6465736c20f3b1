"""Where the samples of a batch stand in every value, and what depends on how many there are."""
