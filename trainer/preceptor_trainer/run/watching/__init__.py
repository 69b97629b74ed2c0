"""Where a run is watched: the terminal, the file of metrics, seconds and memory of each phase."""
