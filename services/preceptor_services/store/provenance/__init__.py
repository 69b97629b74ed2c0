"""Queries about the provenance of targets: runs, weights, feedback, traces."""
