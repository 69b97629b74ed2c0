"""Tools without domain knowledge: settings, clock, blobs, metrics, shared transactions."""
