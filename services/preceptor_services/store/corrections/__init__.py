"""Queries about human corrections."""
