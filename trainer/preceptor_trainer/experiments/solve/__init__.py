"""Attempts at single questions: three methods, with the same services as training.

    preceptor solve base-rates --split held_out --out runs/solve     # who is in the hard tail
    preceptor solve run --out runs/solve                             # all three, on the hard tail

| file | what |
|---|---|
| `base_rates.py` | how often the student solves each of many problems; the hard tail |
| `never_solved.py` | problems of which no attempt succeeds |
| `session.py` | student, sampler and feedback sources, without an expert |
| `best_of_k.py` | independent attempts |
| `multi_turn.py` | one attempt a turn, with the feedback on earlier ones in the prompt |
| `test_time.py` | training on the one question, from its own feedback |
| `trajectory.py` | what each of them leaves: attempts, first success, cost |
| `discovery.py` | discovery@k with censoring, its intervals, and paired differences |
| `experiment.py` | which of these are still missing, one after the other |
| `report.py` | table, figure, JSON |
"""
