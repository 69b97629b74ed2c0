"""Provenance of targets: runs, lineages, rollouts, targets, steps, and the trace."""
