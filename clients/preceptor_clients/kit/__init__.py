"""Small helpers that clients, services and trainer share; none depends on the domain."""
