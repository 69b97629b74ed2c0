"""People as participants of a run: selected rollouts go to them, corrections become targets."""
