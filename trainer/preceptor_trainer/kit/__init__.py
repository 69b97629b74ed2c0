"""Tools that are independent of the domain."""
