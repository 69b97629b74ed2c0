"""Generation in the trainer's own process."""
