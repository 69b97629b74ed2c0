"""Checks of an objective's requirements on a run, each with its error message.

They run when a `RunConfig` is built, so that a recipe that cannot work does not start. The experts'
abilities are those that the recipe declares (`ExpertUse`); a service without a declared ability
refuses the first query.
"""

from preceptor_trainer.objectives import PlannedRun


def one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an unknown value of a switch."""
    if value not in allowed:
        raise ValueError(f"{field} must be one of {allowed}, not {value!r}")


def positive(field: str, value: float) -> None:
    """Refuse zero, negative numbers and NaN."""
    # Written as `not >`, because every comparison with NaN is false.
    if not value > 0:
        raise ValueError(f"{field} must be positive, not {value}")


def within_0_1(field: str, value: float) -> None:
    """Refuse a value outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{field} must be in [0, 1], not {value}")


def require_experts(plan: PlannedRun) -> None:
    """At least one expert is needed."""
    if not plan.experts:
        raise ValueError("experts: is empty, but this objective learns only from experts")


def require_rewards(plan: PlannedRun) -> None:
    """Rewards and at least two rollouts per problem are needed."""
    if not plan.sources:
        raise ValueError("task.sources: is empty, but this objective needs rewards")
    if plan.rollouts_per_problem < 2:
        raise ValueError(
            f"rollouts_per_problem={plan.rollouts_per_problem} leaves no sibling to compare a "
            "reward with: sample at least 2"
        )


def require_policy_samples(plan: PlannedRun, remedy: str) -> None:
    """The rollouts must be samples of the policy, whose expectation is differentiated."""
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
    """Every expert must return probabilities instead of draws, because their logarithm is used."""
    for expert in plan.experts:
        if expert.kind != "topk":
            raise ValueError(
                f"{wanted} needs the expert's log-probs, but expert {expert.name!r} has "
                f"kind={expert.kind!r}: an id that it did not draw would have probability 0; "
                "use forward cross-entropy (alpha=0, or DistIL)"
            )


def require_entropies(plan: PlannedRun) -> None:
    """Every expert's answer must determine its entropy."""
    for expert in plan.experts:
        if expert.kind == "empirical":
            raise ValueError(
                f"future='kl' with expert {expert.name!r} of kind='empirical': a sample does not "
                "determine the entropy; use future='ce'"
            )


def require_candidates(plan: PlannedRun, wanted: str) -> None:
    """Every expert must score candidate ids."""
    for expert in plan.experts:
        if not expert.scores_candidates:
            raise ValueError(
                f"{wanted} needs the expert's log-probs of the student's own ids, but expert "
                f"{expert.name!r} has scores_candidates=False; use support='expert'"
            )


def require_own_logprobs(plan: PlannedRun, wanted: str) -> None:
    """Every expert must return log-probs of the sampled tokens."""
    for expert in plan.experts:
        if not expert.own_logprobs:
            raise ValueError(
                f"{wanted} needs the expert's log-probs of the sampled tokens, but expert "
                f"{expert.name!r} has own_logprobs=False"
            )


def require_given_answers(plan: PlannedRun) -> None:
    """Some rollouts must be given, because only given ones are imitated."""
    if plan.rollout_source.given_share <= 0:
        raise ValueError(
            "rollout_source: gives no sequence to imitate; use References, with share=1 for "
            "nothing else"
        )
