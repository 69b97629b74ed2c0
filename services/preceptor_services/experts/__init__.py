"""Experts: whatever knows better than the student, answering its prefixes."""
