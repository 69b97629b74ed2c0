"""vLLM's flat log-probs become the rows asked, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.schemas import Capabilities, PrefixQuery, Prompt
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.vllm_expert.flat import (
    candidates_of,
    distributions_of,
    spread_candidates,
)

VOCAB, CONTEXT, RESPONSE = 10, (7, 8), (3, 1, 4)


@dataclass
class Flat:
    """As vLLM fills it: nothing about the first token; then the own token and the best ones."""

    start_indices: list[int] = field(default_factory=lambda: [0])
    end_indices: list[int] = field(default_factory=lambda: [0])
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, own: int, row: np.ndarray, k: int) -> None:
        ids = [own, *np.argsort(-row, kind="stable")[:k].tolist()]
        self.start_indices.append(len(self.token_ids))
        self.token_ids += ids
        self.logprobs += row[ids].tolist()
        self.end_indices.append(len(self.token_ids))


def rows_TV(num_rows: int = VOCAB) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(len(CONTEXT) + len(RESPONSE), num_rows)) * 2
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def scored(k: int = 4, num_rows: int = VOCAB) -> Flat:
    flat, rows = Flat(), rows_TV(num_rows)
    for t, token in enumerate([*CONTEXT, *RESPONSE][1:], start=1):
        flat.add(token, rows[t], k)
    return flat


def query(**fields: object) -> PrefixQuery:
    given = {
        "prompt": Prompt(ids=np.array(CONTEXT, np.int32)),
        "response_ids": np.array(RESPONSE, np.int32),
        "vocab_fingerprint": "ab" * 32,
        "top_k": 4,
    }
    return PrefixQuery.model_validate(given | fields)


def test_entry_t_is_about_response_token_t() -> None:
    found = distributions_of(scored(), query(), num_context=2, vocab_size=VOCAB)

    rows = rows_TV()[2:]
    np.testing.assert_array_equal(found.ids_PK, np.argsort(-rows, axis=1)[:, :4])
    np.testing.assert_allclose(found.logprobs_PK, -np.sort(-rows, axis=1)[:, :4], rtol=1e-6)
    np.testing.assert_allclose(found.own_logprobs_P, rows[[0, 1, 2], RESPONSE], rtol=1e-6)


def test_only_the_positions_asked_are_given() -> None:
    asked = query(positions=((0, 1), (2, 3)))

    found = distributions_of(scored(), asked, num_context=2, vocab_size=VOCAB)

    np.testing.assert_allclose(found.own_logprobs_P, rows_TV()[[2, 4], [3, 4]], rtol=1e-6)


def test_padded_rows_of_the_head_are_no_entries_and_count_to_the_tail() -> None:
    asked = query(top_k=8)

    found = distributions_of(scored(8, num_rows=14), asked, num_context=2, vocab_size=VOCAB)

    assert found.ids_PK.max() < VOCAB
    answer = build_answer(asked, found, expert="vllm", expert_version="1")
    declared = Capabilities(vocab_fingerprint="ab" * 32, vocab_size=VOCAB, head_size=14)
    check_answer(asked, answer, declared)
    assert (answer.num_entries_P < 8).any()
    assert (answer.tail_P > 0).all()


def test_impossible_tokens_are_left_out() -> None:
    flat = scored()
    flat.logprobs[-1] = float("-inf")

    found = distributions_of(flat, query(), num_context=2, vocab_size=VOCAB)

    assert found.ids_PK[-1].tolist()[-1] == -1
    assert np.isfinite(found.logprobs_PK).all()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda f: replace(f, start_indices=f.start_indices[1:]), "4 positions of 5"),
        (lambda f: replace(f, end_indices=[*f.end_indices[:-1], f.end_indices[-1] - 1]), "4 to 5"),
        (lambda f: replace(f, token_ids=[0, *f.token_ids[:-1]]), "other tokens"),
        (
            lambda f: replace(f, logprobs=[*f.logprobs[:-5], float("nan"), *f.logprobs[-4:]]),
            "finite",
        ),
    ],
)
def test_what_vllm_got_wrong_is_refused(fault, words) -> None:
    with pytest.raises(ServiceFailed, match=words):
        distributions_of(fault(scored()), query(), num_context=2, vocab_size=VOCAB)


def test_candidates_are_asked_at_their_positions_and_read_back_there() -> None:
    asked = query(positions=((0, 1), (2, 3)), candidate_ids=np.array([[5, -1], [6, 7]], np.int32))

    sent_TC = spread_candidates(asked)
    assert sent_TC is not None
    rows = rows_TV()[len(CONTEXT) :]
    scored_TC = np.where(sent_TC < 0, -np.inf, np.take_along_axis(rows, sent_TC.clip(0), 1))
    found_PC = candidates_of(scored_TC, asked)

    assert sent_TC.tolist() == [[5, -1], [-1, -1], [6, 7]]
    expected = [[rows[0, 5], MISSING], [rows[2, 6], rows[2, 7]]]
    np.testing.assert_allclose(found_PC, expected, rtol=1e-6)


def test_candidates_that_were_dropped_are_no_answer() -> None:
    asked = query(candidate_ids=np.array([[5], [6], [7]], np.int32))

    for scores in (None, np.zeros((2, 1))):
        with pytest.raises(ServiceFailed, match="candidates"):
            candidates_of(scores, asked)
    assert candidates_of(None, query()) is None
