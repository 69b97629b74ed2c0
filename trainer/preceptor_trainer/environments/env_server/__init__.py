"""Environments of verifiers: `env_server.py` attempts, `wire.py` the protocol of the server,
`face.py` the address that environments ask for the student's turns.
"""
