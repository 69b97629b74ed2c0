"""A trial: a few rows of a run through every stage but the optimiser's step."""
