"""The gateway: the one door to experts and feedback sources, and the only writer of SQL and blobs.

`app.py` puts it together; `routes/` has one thin file per area; what the routes do lies beside
them: `submission.py` (question in), `delivery.py` (job out, result in), `outcomes.py` (answer out),
`weights.py`, `records.py`, `tracing.py`, `registry.py`, `upkeep.py`.
"""
