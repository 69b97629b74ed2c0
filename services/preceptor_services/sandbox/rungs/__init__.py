"""The rungs of the ladder, one file each: how the rung starts, and what it needs."""
