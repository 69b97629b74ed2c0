"""From experts' answers, and from people's edits, to targets: pure functions over numpy arrays."""
