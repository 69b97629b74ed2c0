"""Executable theory: small worlds in which statements about DistIL are computed exactly.

    python -m preceptor_trainer.theory docs    # tables of explanation/theory.md, figures/theory

One module per idea, each with a `finding()`: the numbers of its table and the lines of its figure.
Statements about the objective use the trainer's `DistIL`, not a second implementation.

    bandits       a strictly better teacher, and what one step of each divergence does
    improvement   when a local step improves a policy of several steps, and how far it can be off
    two_step      where the tokenwise gradient is stuck
    length        why costs-to-go prefer short responses
    likelihood    cross-entropy to the Bayes teacher as a bound on success, and Pass@N
    feedback      feedback that is given, and feedback that depends on the rollout
    truncation    an expert's top k ids instead of its whole distribution
"""
