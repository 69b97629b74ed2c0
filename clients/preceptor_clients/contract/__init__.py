"""The wire contract: every message between trainer, gateway, dispatcher, experts and sources.

`schemas.py` is questions and answers, `corrections.py` the correction queue, `generation.py`,
`tokenization.py` and `execution.py` what services with more than log-probs are asked, `errors.py`
the problem details. `wire.py` renders a message as JSON or as the binary frame (`frame.py`,
`grid.py`, `arrays.py`); `checks.py` is what an answer must pass before anybody trains on it.
`docs/reference/wire-format.md` says the same for other languages.
"""
