"""Tools that know no domain: settings, clock, blobs, metrics, transactions shared by many callers."""
