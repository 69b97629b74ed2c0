"""Human corrections: the queue that people work on, and the expert that they are.

Inside the gateway: `intake.py` (items in), `queue.py` (claims, leases, versions, drafts),
`reviewing.py` and `settling.py` (what counts), `results.py` (what trainers read), `retiring.py`,
`views.py` and `expert_view.py` (what a page shows), `agreement.py` (pure). Beside it: `expert.py`,
a service like any other expert, which turns settled corrections into answers. It alone needs a
tokenizer.
"""
