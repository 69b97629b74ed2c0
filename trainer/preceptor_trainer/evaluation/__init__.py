"""Evaluation of a policy: held-out problems, pass@k and its uncertainty."""
