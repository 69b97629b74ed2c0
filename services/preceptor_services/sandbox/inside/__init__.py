"""What runs inside a sandbox, with the standard library only.

`keeper.py` is the process that stays: it enters the walls, forks a child for each run, and kills
what is left of it. It never holds a task: a child reads its own from a descriptor. `child.py` is
one run. `walls.py` puts the walls together: `namespaces.py`, `landlock.py`, `seccomp.py`. `tree.py`
measures and kills, `linux.py` has the system calls that Python lacks.
"""
