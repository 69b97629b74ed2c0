"""Rubrics: how a language model judges a response, whoever serves the model.

| module | what it does |
|---|---|
| `rubric.py` | criteria with weights, their version, and the score of verdicts |
| `material.py` | what is judged, as data between lines with a random mark |
| `chats.py` | the chats that ask for verdicts, as JSON or in words |
| `replies.py` | reads replies; a reply that cannot be read is an error and no verdict |
| `judging.py` | asks, reads, asks again in words, and counts what it costs |
"""
