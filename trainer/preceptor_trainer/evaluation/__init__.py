"""How good a policy is: held-out problems, pass@k and its uncertainty."""
