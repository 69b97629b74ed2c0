"""The dispatcher: takes jobs from the streams, calls the services, checks and reports the answers.

It keeps no state: when it ends unexpectedly, another dispatcher reclaims its jobs. `batching.py`
forms calls, `breaker.py` is the circuit breaker, `ask.py` makes one call and checks its answers,
`worker.py` serves one service, `process.py` serves all of them.
"""
