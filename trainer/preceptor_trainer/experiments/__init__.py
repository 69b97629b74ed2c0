"""Experiments over many runs: comparisons of methods, and attempts at single questions."""
