"""Heads: from hidden states to student statistics."""
