"""The life of a question: submitted, planned into jobs, claimed, reported, accepted, settled.

`submit.py` accepts requests (`question.py` checks a query, `keys.py` finds equal queries, `plan.py`
and `bundle.py` decide what is written). `claim.py` gives jobs to dispatchers. `report.py` receives
their reports (`accept.py` decides, `settle.py` writes). `late_answers.py` receives promised
answers. `outcomes.py` and `notifier.py` return results to callers, `neighbours.py` to those of
other gateway processes. `sweep.py` handles deadlines and lost jobs.
"""
