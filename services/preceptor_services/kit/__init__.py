"""Tools that know no domain: settings, clock, blobs, metrics, shared transactions."""
