"""The dispatcher: takes jobs from the streams, asks the services, checks and reports the answers.

It keeps no state: what it holds when it dies is taken up by another one. `batching.py` forms calls,
`breaker.py` spares services that fail, `asking.py` is one call with its checks, `worker.py` serves
one service, `process.py` serves all of them.
"""
