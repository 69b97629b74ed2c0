"""Environments that speak OpenEnv's protocol: `socket.py` one connection, `openenv.py` attempts."""
