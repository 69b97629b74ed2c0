"""Entry t is about response token t, given everything before it and nothing else.

An answer that is shifted by one is a valid distribution of the wrong position. The check finds it
by its dependence on the tokens: when token j changes, the entries up to j must not change (they
depend only on tokens before j), and entry j + 1 must.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from preceptor_clients.conformance.compare import changed, distance, entries
from preceptor_clients.conformance.numbers import asked_one_by_one, need_topk
from preceptor_clients.conformance.subject import Subject
from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract.schemas import PrefixAnswer, Prompt

_FOLLOWED: Final = 6
_CHANGED_AT: Final = (0, 2, 4)
_UNIFORM: Final = 0.02
_SHIFT_MEND: Final = (
    "an engine's output after a token is about the next one: its output at the prompt's last token "
    "is entry 0"
)


async def check_index(subject: Subject) -> str:
    """Entry t is about token t: checked by the log-prob of the token at t."""
    need_topk(subject)
    response, promised = await _followed(subject)
    [whole] = await subject.ask(subject.query(response))
    for t, logprob in enumerate(promised):
        own = _own(whole, t)
        if own is None or abs(own - logprob) > subject.options.tolerance:
            raise Failed(
                expected=f"token {t} has the log-prob {logprob:.3f} that it had as an "
                "entry before it was appended",
                found=f"{'none' if own is None else f'{own:.3f}'} after it and the next tokens "
                "were appended",
                mend=_SHIFT_MEND,
            )
    await _check_causal(subject, response, whole)
    return f"{_FOLLOWED} tokens of the expert's own, {len(_CHANGED_AT)} changed"


async def _followed(subject: Subject) -> tuple[np.ndarray, list[float]]:
    """`[T]` tokens that the expert finds likely, and the log-prob that it gave to each."""
    filler = int(subject.ids(1, 8)[0])
    response: list[int] = []
    promised: list[float] = []
    for t in range(_FOLLOWED):
        asked = np.array([*response, filler], np.int32)
        [answer] = await subject.ask(subject.query(asked, positions=((t, t + 1),)))
        row = list(entries(answer, 0).items())
        if not row:
            raise Skipped("the expert has no opinion on random text")
        # Not always the best one: a constant best token would hide a shift.
        token, logprob = row[min(t % 3, len(row) - 1)]
        response.append(token)
        promised.append(logprob)
    return np.array(response, np.int32), promised


def _own(answer: PrefixAnswer, t: int) -> float | None:
    if answer.own_mask_P[t]:
        return float(answer.own_logprobs_P[t])
    return entries(answer, t).get(int(answer.token_ids_P[t]))


async def _check_causal(subject: Subject, response: np.ndarray, whole: PrefixAnswer) -> None:
    moved = dict[int, bool]()
    for j in _CHANGED_AT:
        other = response.copy()
        other[j] = (other[j] + 1 + subject.vocab_size // 2) % subject.vocab_size
        [answer] = await subject.ask(subject.query(other))
        for t in range(j + 1):
            gap = distance(whole, t, answer, t)
            if gap > subject.options.tolerance:
                raise Failed(
                    expected=f"entry {t} does not depend on token {j}",
                    found=f"it changed by {gap:.3f} when only token {j} changed: it depends on the "
                    "token that it should predict",
                    mend=_SHIFT_MEND,
                )
        moved[j] = changed(whole, j + 1, answer, j + 1)
        if not moved[j] and any(changed(whole, t, answer, t) for t in range(j + 2, len(response))):
            raise Failed(
                expected=f"entry {j + 1} depends on token {j}",
                found=f"entry {j + 1} is the same, later ones changed: answers are shifted by one",
                mend=_SHIFT_MEND,
            )
    if not any(moved.values()):
        raise Skipped("the answers do not depend on the response; see `context`")


async def check_context(subject: Subject) -> str:
    """Answers depend on the prompt and the response."""
    need_topk(subject)
    queries = [subject.query(prompt=subject.prompt(12, seed=40 + i)) for i in range(3)]
    answers = await asked_one_by_one(subject, queries)
    if not any(answer.mask_P.any() for answer in answers):
        raise Skipped("the expert has no opinion on random text")
    best = max(
        (max(row.values()) for a in answers for t in range(8) if (row := entries(a, t))),
        default=0.0,
    )
    if subject.info.capabilities.vocab_size and best + np.log(subject.vocab_size) < _UNIFORM:
        raise Failed(
            expected="some ids are more likely than others",
            found=f"every id has about 1/{subject.vocab_size}",
            mend="the model's weights are not loaded, or its logits are not read",
        )
    if not any(changed(answers[0], t, other, t) for other in answers[1:] for t in range(8)):
        raise Failed(
            expected="different answers for different prompts",
            found="the same answers for three different prompts",
            mend="put the prompt before the response; check the attention mask",
        )
    if not any(changed(answers[0], 0, answers[0], t) for t in range(1, 8)):
        raise Failed(
            expected="different answers at different positions",
            found="the same entries at every position",
            mend="give each position the row that follows the tokens before it",
        )
    return ""


async def check_split(subject: Subject) -> str:
    """A token at the prompt's end has the same effect as at the response's start."""
    need_topk(subject)
    if not subject.takes_ids:
        raise Skipped("the expert does not accept a prompt of ids alone")
    if subject.info.capabilities.needs_feedback:
        raise Skipped("the expert puts feedback between prompt and response")
    prompt, response = subject.ids(12, 1), subject.ids(8, 2)
    [whole] = await subject.ask(subject.query(response, prompt=Prompt(ids=prompt)))
    moved = Prompt(ids=np.concatenate([prompt, response[:3]]))
    [split] = await subject.ask(subject.query(response[3:], prompt=moved))
    gap = max(distance(whole, 3 + t, split, t) for t in range(5))
    if gap > subject.options.tolerance:
        raise Failed(
            expected="the same answers when the response's first tokens are moved into the prompt",
            found=f"log-probs {gap:.3f} apart",
            mend="use `prompt.ids` as they are: add no template, no start or end token",
        )
    return ""
