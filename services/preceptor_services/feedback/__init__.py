"""Feedback sources: whatever can tell how an attempt went."""
