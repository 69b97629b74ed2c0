"""Runs a whole deployment on one machine, as real processes.

`plan.py` chooses ports, keys and command lines and writes them to a file. `child.py` is one
process. `supervisor.py` starts, watches, restarts and stops them. `command.py` is `preceptor up`.
"""
