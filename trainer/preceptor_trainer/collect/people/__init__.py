"""People take part in a run: what goes to them, and what their corrections become."""
