"""A run: its configuration and schedule, its records, checkpoints and published versions."""
