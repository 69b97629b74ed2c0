"""The life of a question: submitted, planned into jobs, claimed, reported, accepted, settled.

`submit.py` takes requests in (`question.py` checks one, `keys.py` says which are the same,
`plan.py` and `bundle.py` decide what is written), `claim.py` hands jobs to dispatchers, `report.py`
takes what they report (`accept.py` decides, `settle.py` writes), `late_answers.py` takes promised
answers, `outcomes.py` and `notifier.py` tell callers, `sweep.py` ends what nobody ended.
"""
