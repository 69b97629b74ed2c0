"""The policy as files and the optimiser step. Only `learner.py` touches the optimiser."""
