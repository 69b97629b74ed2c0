"""The scoring engine: log-probs of a causal language model at the wanted positions, by one prefill.

`score.py` has the entry point. It splits the work by `budget.py`, packs sequences into a tree of
their common prefixes (`packing.py`), runs a model over the packed tokens (`models.py`, with the
attention of `attention.py`), and computes the wanted rows of the head (`head.py`, on a GPU with the
kernel of `block_kernel.py`). `admission.py` makes callers wait for memory.
"""
