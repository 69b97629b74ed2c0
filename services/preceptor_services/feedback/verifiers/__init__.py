"""Verifiers: judges with a name, one file each.

A verifier is a function like a judge of yours (`preceptor_clients.sdk.judging`), and its options
are arguments by name. It joins by one line in `pyproject.toml`, in the entry points of the group
`preceptor.verifiers`. Its text says what was wrong, for the teacher to read.
"""
