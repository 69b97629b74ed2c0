"""Adapters that make experts of third-party servers: their replies as answers of the contract."""
