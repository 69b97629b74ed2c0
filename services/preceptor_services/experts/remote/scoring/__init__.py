"""Servers that give log-probs of a prompt, each asked in its own dialect."""
