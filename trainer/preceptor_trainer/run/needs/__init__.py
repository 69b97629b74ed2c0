"""What a run takes, planned before its first step: memory and disk."""
