"""Feedback sources: services that judge an attempt."""
