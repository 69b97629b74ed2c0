"""The `preceptor` command: `main.py` assembles it, `expert.py` is `preceptor expert`.

Services and trainer add their own commands by entry points, so that the base install shows only
commands that it can run.
"""
