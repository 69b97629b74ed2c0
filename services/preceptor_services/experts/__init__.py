"""Experts: services that answer the student's prefixes with next-token distributions."""
