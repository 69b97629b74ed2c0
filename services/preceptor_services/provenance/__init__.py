"""Where every target came from: runs, lineages, rollouts, targets, steps, and the trace."""
