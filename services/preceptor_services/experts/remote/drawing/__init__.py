"""Experts from APIs that return only text: draws at a few positions become distributions."""
