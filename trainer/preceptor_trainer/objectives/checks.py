"""What an objective may demand of a run, each demand with the reason that is shown.

Called when a `RunConfig` is built, so that a recipe which cannot work never starts. The experts'
abilities are those that the recipe declares (`ExpertUse`); a service that cannot do what was
declared refuses the first query.
"""

from preceptor_trainer.objectives import PlannedRun


def one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a switch that does not exist."""
    if value not in allowed:
        raise ValueError(f"{field} must be one of {allowed}, not {value!r}")


def positive(field: str, value: float) -> None:
    """Refuse zero, negative numbers and NaN."""
    # Written this way round, because every comparison with NaN is false.
    if not value > 0:
        raise ValueError(f"{field} must be positive, not {value}")


def within_0_1(field: str, value: float) -> None:
    """Refuse what is no share."""
    if not 0 <= value <= 1:
        raise ValueError(f"{field} must be in [0, 1], not {value}")


def require_experts(plan: PlannedRun) -> None:
    """Some expert must say what it would have written."""
    if not plan.experts:
        raise ValueError("experts: is empty, and this objective learns from nothing else")


def require_rewards(plan: PlannedRun) -> None:
    """Rewards are compared with those of siblings."""
    if not plan.sources:
        raise ValueError("task.sources: is empty, so that no rollout has a reward to learn from")
    if plan.rollouts_per_problem < 2:
        raise ValueError(
            f"rollouts_per_problem={plan.rollouts_per_problem} leaves no sibling to compare a "
            "reward with: sample at least 2"
        )


def require_policy_samples(plan: PlannedRun, remedy: str) -> None:
    """The rollouts must be the policy's own, where an expectation over them is differentiated."""
    sampling = plan.sampling
    if sampling.temperature != 1:
        raise ValueError(
            f"temperature={sampling.temperature} is not the policy whose expectation is "
            f"differentiated: {remedy}"
        )
    if sampling.top_p is not None and sampling.top_p < 1:
        raise ValueError(f"top_p={sampling.top_p} truncates the policy: {remedy}")
    if sampling.top_k is not None and sampling.top_k > 0:
        raise ValueError(f"top_k={sampling.top_k} truncates the policy: {remedy}")


def require_distributions(plan: PlannedRun, wanted: str) -> None:
    """Every expert must give probabilities, not draws: their logarithm is taken."""
    for expert in plan.experts:
        if expert.kind != "topk":
            raise ValueError(
                f"{wanted} needs the expert's log-probs, and expert {expert.name!r} gives "
                f"kind={expert.kind!r}: an id that it did not draw would have probability 0; "
                "use forward cross-entropy (alpha=0, or DistIL)"
            )


def require_entropies(plan: PlannedRun) -> None:
    """Every expert's entropy must be readable off its answer."""
    for expert in plan.experts:
        if expert.kind == "empirical":
            raise ValueError(
                f"future='kl' with expert {expert.name!r} of kind='empirical': an entropy cannot "
                "be read off a sample; use future='ce'"
            )


def require_candidates(plan: PlannedRun, wanted: str) -> None:
    """Every expert must score ids that it is given."""
    for expert in plan.experts:
        if not expert.scores_candidates:
            raise ValueError(
                f"{wanted} needs the expert's log-probs of the student's own ids, and expert "
                f"{expert.name!r} has scores_candidates=False; use support='expert'"
            )


def require_own_logprobs(plan: PlannedRun, wanted: str) -> None:
    """Every expert must say how probable it finds the sampled tokens."""
    for expert in plan.experts:
        if not expert.own_logprobs:
            raise ValueError(
                f"{wanted} needs the expert's log-probs of the sampled tokens, and expert "
                f"{expert.name!r} has own_logprobs=False"
            )


def require_given_answers(plan: PlannedRun) -> None:
    """Some rollouts must be given, where only given ones are imitated."""
    if plan.rollout_source.given_share <= 0:
        raise ValueError(
            "rollout_source: gives no sequence to imitate; use References, with share=1 for "
            "nothing else"
        )
