"""The scoring engine: what a causal language model says at the positions wanted, by one prefill.

`score.py` is the entrance. It splits the work by `budget.py`, packs sequences into a tree of their
common beginnings (`packing.py`), runs a model over the packed tokens (`models.py`, with the
attention of `attention.py`), and reads the wanted rows of the head (`head.py`, on a GPU with the
kernel of `block_kernel.py`). `admission.py` makes callers wait for room.
"""
