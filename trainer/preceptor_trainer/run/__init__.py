"""A run: its configuration and schedule, the collecting of a step, its records and versions."""
