"""Experiments over many runs: comparing methods, and spending attempts on single questions."""
