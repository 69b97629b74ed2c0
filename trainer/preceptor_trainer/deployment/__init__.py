"""A deployment of one run's own."""
