"""Formats of files that the field has already, by name: one module of this folder each.

A module defines `Format`, a frozen keyword-only dataclass: its fields are the options, a call turns
the rows of a file into rows with a `prompt` or `messages`, and what its judges need as columns. The
module's name is the format's name, so that one file adds one. `named.py` finds them; `columns.py`
has what several of them need.
"""
