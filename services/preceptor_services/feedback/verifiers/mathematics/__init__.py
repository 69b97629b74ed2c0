r"""Mathematical answers: found in a response, read by math-verify, and compared.

`found.py` finds the final answer of a response; `reading.py` makes a value of it, with the reader
of LaTeX of math-verify, and `units.py` takes its unit; `comparing.py` decides whether two values
are the same, by `equations.py`, `sets.py` and `expressions.py`; `verifier.py` says so.

math-verify's own time limits are off: they are signals, which work in the main thread alone and
turn right answers into wrong ones. The source ends the process of a call that takes too long.
"""

from preceptor_services.feedback.verifiers.mathematics.verifier import math

__all__ = ["math"]
