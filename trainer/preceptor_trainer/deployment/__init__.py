"""The deployment of a single run."""
