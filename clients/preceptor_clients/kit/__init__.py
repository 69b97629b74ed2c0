"""Small helpers that clients, services and trainer share; none knows the domain."""
