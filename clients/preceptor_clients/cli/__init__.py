"""The `preceptor` command: `main.py` assembles it, `expert.py` is `preceptor expert`.

Services and trainer add commands of their own by entry points, so that the base install has the
ones that it can run.
"""
