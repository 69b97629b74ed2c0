"""Runs a whole deployment on one machine, as real processes.

`plan.py` decides ports, keys and command lines; `toml_text.py` writes the settings down; `child.py`
is one process; `supervisor.py` starts, watches, restarts and ends them; `command.py` is
`preceptor up`.
"""
