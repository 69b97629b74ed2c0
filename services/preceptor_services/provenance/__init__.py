"""Where every target came from: runs, lineages, rollouts, targets, optimiser steps, and the trace."""
