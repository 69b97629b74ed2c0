"""Worlds in which a student acts: problems, and what an attempt at one looks like."""
