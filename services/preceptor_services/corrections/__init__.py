"""Human corrections: the queue that people work on, and the expert that answers from their work.

Inside the gateway: `intake.py` (new items), `claims.py` and `submissions.py`, with `work.py` above
them (leases, versions, drafts), `review.py` and `settle.py` (which version is authoritative),
`results.py` (what trainers read), `retire.py`, `views.py` and `expert_view.py` (what the page
shows), `agreement.py` (pure). In its own process: `people_expert.py`, a service like any other
expert, which turns settled corrections into answers. Only this one needs a tokenizer.
"""
