"""The sandbox in which feedback sources run untrusted programs.

`isolation.py` is the interface. `process.py` implements it for every Linux machine; `zygote.py`
runs inside that sandbox.
"""
