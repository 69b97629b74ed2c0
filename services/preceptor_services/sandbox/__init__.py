"""The box that untrusted programs run in, seen from the feedback sources that need one.

`isolation.py` is the seam; `process.py` is the rung that every Linux machine offers, and
`zygote.py` runs inside it.
"""
