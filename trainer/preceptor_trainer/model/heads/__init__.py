"""Heads: from hidden states to student statistics, and to a loss of them.

`head.py` is the interface; `dense.py` forms all logits of a call, `lean.py` one chunk of them at a
time, and `by_size.py` chooses.
"""
