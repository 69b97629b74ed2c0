"""Experts from servers that return log-probs of a prompt, each with its own dialect."""
