"""Runs a whole deployment on one machine, as real processes.

`plan.py` decides ports, keys and command lines, and writes them down; `child.py` is one process;
`supervisor.py` starts, watches, restarts and ends them; `command.py` is `preceptor up`.
"""
