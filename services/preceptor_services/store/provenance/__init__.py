"""Queries about where targets came from: runs, weights, feedback, traces."""
