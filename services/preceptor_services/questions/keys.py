"""Answer keys: equal questions have equal keys.

Submissions with equal keys share one answer. So the key covers everything that the answer may
depend on, and nothing that affects only how or when it is delivered. Ids of feedback items are
included with their content, because an answer echoes the ids that it had in view.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import FeedbackQuery, PrefixQuery, Prompt

_DELIVERY = frozenset({"timeout_ms", "priority"})


def prefix_answer_key(service: str, version: str, weights: str | None, query: PrefixQuery) -> str:
    """Key of an expert's answer.

    Args:
        service: The expert's name at the gateway.
        version: The expert's version.
        weights: The exact version of the wanted weights; None where the expert has no versions.
        query: The query.
    """
    entropy = {} if query.entropy_P is None else {"entropy": query.entropy_P}
    return content_hash(
        {
            "kind": "logprobs",
            "service": service,
            "version": version,
            "weights": weights,
            "prompt": _prompt(query.prompt),
            "feedback": [[item.id, item.content_hash()] for item in query.feedback],
            "response_ids": query.response_ids,
            "positions": query.position_ids().astype(np.int64),
            "vocab": query.vocab_fingerprint,
            "top_k": query.top_k,
            "candidates": query.candidate_ids,
            "draw": query.draw,
        }
        | entropy
    )


def feedback_answer_key(service: str, version: str, query: FeedbackQuery) -> str:
    """Key of a source's answer."""
    episode = {} if query.episode is None else {"episode": query.episode.model_dump()}
    return content_hash(
        {
            "kind": "feedback",
            "service": service,
            "version": version,
            "prompt": _prompt(query.prompt),
            "response_ids": query.response_ids,
            "response_text": query.response_text,
            "finish_reason": query.finish_reason,
            "payload": query.payload_sha256,
        }
        | episode
    )


def payload_hash(service: str, query: PrefixQuery | FeedbackQuery) -> str:
    """Hash of the payload of an idempotency key: the query without its delivery options."""
    fields: dict[str, Any] = {
        name: value
        for name, value in query.__dict__.items()
        if value is not None and name not in _DELIVERY
    }
    return content_hash({"service": service, "kind": type(query).__name__, "query": fields})


def ticket_id(caller: str, idempotency_key: str) -> str:
    """Id of the ticket of a caller's idempotency key."""
    digest = hashlib.sha256(f"{caller}\0{idempotency_key}".encode()).hexdigest()
    return f"k-{digest[:32]}"


def answer_id(answer_key: str) -> str:
    """Provenance id of the answer; derived, so that equal runs build equal targets."""
    return f"a-{answer_key[:24]}"


def _prompt(prompt: Prompt) -> dict[str, Any]:
    messages = [[message.role, message.content] for message in prompt.messages]
    return {"messages": messages, "ids": prompt.ids}
