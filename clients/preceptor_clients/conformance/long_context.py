"""Checks at the declared limit of the context and one token beyond it."""

from __future__ import annotations

from preceptor_clients.conformance.compare import changed
from preceptor_clients.conformance.numbers import need_topk
from preceptor_clients.conformance.subject import Subject
from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery, Prompt

_RESPONSE = 4


async def check_context_limit(subject: Subject) -> str:
    """A context of the declared length is answered, a longer one is refused."""
    limit = subject.info.capabilities.max_context
    if limit is None:
        raise Skipped("no `max_context` is declared")
    if not subject.takes_ids:
        raise Skipped("the expert takes no prompt of ids alone")
    if limit > subject.options.max_tokens:
        raise Skipped(f"{limit} tokens are more than --max-tokens {subject.options.max_tokens}")
    if not subject.info.capabilities.needs_feedback:
        await _ask_long(subject, _long(subject, limit))
    [result] = await subject.results(_long(subject, limit + 1))
    problem = result.problem
    if problem is None or problem.status != 422:
        raise Failed(
            expected=f"{limit + 1} tokens: a problem with status 422, code `context-too-long`",
            found="an answer" if problem is None else f"status {problem.status}, {problem.code}",
            mend="compare the length of prompt and response with `max_context`; never cut them",
        )
    return f"{limit} tokens"


async def check_truncation(subject: Subject) -> str:
    """Answers depend on the first tokens of a long context."""
    need_topk(subject)
    if not subject.takes_ids:
        raise Skipped("the expert takes no prompt of ids alone")
    declared = subject.info.capabilities.max_context or 512
    if subject.info.capabilities.needs_feedback:
        declared = declared // 2  # the feedback needs room
    tokens = min(declared, subject.options.max_tokens, subject.info.limits.max_batch_tokens)
    query = _long(subject, tokens)
    assert query.prompt.ids is not None
    cut = max(1, len(query.prompt.ids) // 16)
    other_ids = query.prompt.ids.copy()
    other_ids[:cut] = subject.ids(cut, 51)
    other = query.model_copy(update={"prompt": Prompt(ids=other_ids)})
    one, two = await _ask_long(subject, query), await _ask_long(subject, other)
    if one.truncated:
        return f"{tokens} tokens; the expert says that it cut {', '.join(one.truncated)}"
    if not (one.mask_P | two.mask_P).any():
        raise Skipped("the expert has no opinion on random text")
    if not any(changed(one, t, two, t) for t in range(_RESPONSE)):
        raise Failed(
            expected=f"answers depend on the first {cut} of {tokens} tokens",
            found="they are the same for different tokens there",
            mend="the context is cut silently: declare as `max_context` the length that the model "
            "can read",
        )
    return f"{tokens} tokens"


def _long(subject: Subject, tokens: int) -> PrefixQuery:
    prompt = Prompt(ids=subject.ids(tokens - _RESPONSE, 50))
    return subject.query(_RESPONSE, prompt=prompt)


async def _ask_long(subject: Subject, query: PrefixQuery) -> PrefixAnswer:
    [answer] = await subject.ask(query)
    return answer
