"""An API that returns only text, as an expert: draws at a few positions become distributions.

    preceptor expert serve preceptor_services.experts.remote.drawing.sample_only:SampleOnly \\
        --option url=https://api.example.com --option model=NAME --option tokenizer=FOLDER

At each position chosen (`positions.py`) the API continues the student's text `draws` times at
temperature 1. The next tokens of the draws (`retokenizing.py`) are an `empirical` answer. The
probability that a position was chosen is in its `inclusion_P`. Elsewhere the mask is false.

The API must continue an unfinished assistant's turn. vLLM and SGLang do so with the default
`body_fields`; others need a field of the message (`message_fields`, such as `{"prefix": true}`); an
API of plain completions (`api = "completions"`) always does. An API that starts a new turn instead
answers another question, which cannot be detected here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.contract.fingerprint import settings_version
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.sdk.context import find_template
from preceptor_services.experts.remote import positions
from preceptor_services.experts.remote.answer_each import answer_each
from preceptor_services.experts.remote.drawing.continuing import Continuation
from preceptor_services.experts.remote.drawing.paid_draws import (
    Chosen,
    Drawn,
    PaidDraws,
    UnfinishedAnswers,
)
from preceptor_services.experts.remote.drawing.retokenizing import next_token, prefix_text
from preceptor_services.experts.remote.drawing.sample_options import SampleOnlyConfig
from preceptor_services.experts.remote.positions import generator_of
from preceptor_services.experts.remote.scoring.discovery import find_model
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.experts.remote.turns import turns_of
from preceptor_services.experts.remote.waiting import when_there
from preceptor_services.kit.upstream import Upstream

CODE_VERSION: Final = "3"
"""Increased whenever the answer to the same API, settings and query may change."""
_NOT_DECIDING: Final = frozenset(
    {"url", "tokenizer", "model", "template", "key_file", "max_batch", "max_concurrency"}
    | {"timeout_s", "start_timeout_s", "max_calls_in_all", "cost_per_call"}
)


class SampleOnly:
    """An expert of the SDK; every option is a field of `SampleOnlyConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = SampleOnlyConfig(**options)
        self._tokenizer = StudentTokenizer(Path(self._config.tokenizer))
        self._template = find_template(self._config.template)
        self._upstream = Upstream(
            self._config.url,
            self._config.key_file,
            max_concurrency=self._config.max_concurrency,
            timeout_s=self._config.timeout_s,
        )
        self._continuation: Continuation | None = None
        self._calls_left = self._config.max_calls_in_all
        self._unfinished = UnfinishedAnswers()

    async def start(self) -> None:
        """Finds the model."""
        card = await when_there(
            lambda: find_model(self._upstream, self._config.model), self._config.start_timeout_s
        )
        self._continuation = Continuation(
            upstream=self._upstream,
            model=str(card["id"]),
            api=self._config.api,
            message_fields=self._config.message_fields,
            body_fields=self._config.body_fields,
            draw_tokens=self._config.draw_tokens,
        )

    async def stop(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()

    def ready(self) -> bool:
        """Whether the model is found."""
        return self._continuation is not None

    def info(self) -> ServiceInfo:
        """Capabilities of this expert."""
        return ServiceInfo(
            name=self._config.name,
            role="expert",
            version=self._version(),
            capabilities=Capabilities(
                kinds=("empirical",),
                cacheable="per_draw",
                draws_positions=True,
                vocab_fingerprint=self._tokenizer.vocab_fingerprint,
                vocab_size=self._tokenizer.vocab_size,
            ),
            limits=ServiceLimits(
                max_batch=self._config.max_batch, max_concurrency=self._config.max_concurrency
            ),
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query; positions without draws are masked."""
        questions = list(zip(queries, answer_keys or [None] * len(queries), strict=True))
        return await answer_each(questions, self._answer)

    async def _answer(self, question: tuple[PrefixQuery, str | None]) -> PrefixAnswer:
        query, key = question
        paid = self._unfinished.of(query, key)
        try:
            async with asyncio.timeout(query.timeout_ms / 1000):
                answer = await self._ask(query, paid)
        except TimeoutError:
            raise DeadlineExceeded(f"the draws took longer than {query.timeout_ms} ms") from None
        self._unfinished.forget(query, key)
        return answer

    async def _ask(self, query: PrefixQuery, paid: PaidDraws) -> PrefixAnswer:
        turns, used = self._turns(query)
        chosen = paid.chosen = paid.chosen or self._choose(query)
        await self._draw(query, turns, chosen.at_P, paid)
        counts = {row: drawn.tokens for row, drawn in paid.by_row.items() if self._tells(drawn)}
        num_calls = sum(drawn.num_calls for drawn in paid.by_row.values())
        elsewhere = sum((drawn.elsewhere for drawn in paid.by_row.values()), Counter[str]())
        if elsewhere and not counts:
            raise ServiceFailed(f"no reply continues the text: {', '.join(_no_draws(elsewhere))}")
        price = self._config.cost_per_call
        return build_answer(
            query,
            _as_arrays(counts, query.num_positions),
            expert=self._config.name,
            expert_version=self._version(),
            kind="empirical",
            mask_P=np.array([p in counts for p in range(query.num_positions)], np.bool_),
            exact=True,  # the service rounds later, where the reply is to be rounded
            num_draws=self._config.draws,
            inclusion_P=chosen.inclusion_P.astype(np.float32),
            template_version=self._template.version if self._config.reads_feedback else None,
            used_feedback=used,
            truncated=_no_draws(elsewhere),
            cost=None if price is None else price * num_calls,
        )

    def _choose(self, query: PrefixQuery) -> Chosen:
        """Draws among the queried positions that the student wrote; equal for equal draws."""
        asked = query.position_ids()
        owned = np.ones(len(asked), np.bool_) if query.owned is None else query.owned[asked]
        rows = np.flatnonzero(owned)
        chances = positions.inclusion(self._weights(query)[rows], self._affordable())
        generator = generator_of((self._config.name, self._config.url, self._version()), query)
        chosen = rows[positions.draw(chances, generator)] if len(rows) else rows
        inclusion_P = np.ones(len(asked))
        inclusion_P[rows] = chances
        return Chosen(chosen, inclusion_P)

    def _weights(self, query: PrefixQuery) -> np.ndarray:
        if self._config.choose == "entropy" and query.entropy_P is not None:
            return positions.entropy_weights(query.entropy_P)
        if self._config.choose == "feedback":
            pieces = [self._tokenizer.decode([int(i)]) for i in query.response_ids]
            return positions.feedback_weights(pieces, query.feedback)[query.position_ids()]
        return np.ones(query.num_positions)

    def _affordable(self) -> int:
        calls = self._config.max_calls
        if self._calls_left is not None:
            calls = min(calls, self._calls_left)
        if calls < self._config.calls_per_position:
            raise ServiceFailed(f"the {self._config.max_calls_in_all} calls in all are spent")
        return calls // self._config.calls_per_position

    async def _draw(
        self,
        query: PrefixQuery,
        turns: list[dict[str, str]] | str,
        rows: np.ndarray,
        paid: PaidDraws,
    ) -> None:
        """Adds the missing draws to `paid`; raises the first failure after all calls have ended."""

        async def one(row: int) -> None:
            paid.by_row[row] = await self._draw_at(query, turns, row)

        left = [int(row) for row in rows if int(row) not in paid.by_row]
        for failure in await asyncio.gather(*map(one, left), return_exceptions=True):
            if failure is not None:
                raise failure

    def _tells(self, drawn: Drawn) -> bool:
        return drawn.tokens.total() >= max(1.0, self._config.min_kept * self._config.draws)

    async def _draw_at(
        self, query: PrefixQuery, turns: list[dict[str, str]] | str, row: int
    ) -> Drawn:
        prefix_ids = query.response_ids[: int(query.position_ids()[row])].tolist()
        prefix = await asyncio.to_thread(prefix_text, self._tokenizer, prefix_ids)
        tokens, elsewhere = Counter[int](), Counter[str]()
        num_calls, left = 0, self._config.draws
        if prefix is None:
            return Drawn(tokens, num_calls, elsewhere)
        while left > 0:
            num = min(left, self._config.draws_per_call)
            self._spend()
            for drawn in await self._api.draw(turns, prefix, num):
                token = next_token(self._tokenizer, prefix, prefix_ids, drawn)
                if token is not None:
                    tokens[token] += 1
                if drawn.elsewhere is not None:
                    elsewhere[drawn.elsewhere] += 1
            num_calls, left = num_calls + 1, left - num
        return Drawn(tokens, num_calls, elsewhere)

    def _spend(self) -> None:
        """Counts a call. It is counted before the call, because a failed call may also cost
        money."""
        if self._calls_left is not None:
            if self._calls_left < 1:
                raise ServiceFailed(f"the {self._config.max_calls_in_all} calls in all are spent")
            self._calls_left -= 1

    def _turns(self, query: PrefixQuery) -> tuple[list[dict[str, str]] | str, tuple[str, ...]]:
        """The API's input before the response, and the feedback in it."""
        turns = turns_of(query, self._template, reads_feedback=self._config.reads_feedback)
        if self._config.api == "completions":
            text = self._tokenizer.chat_text(turns.messages)
            is_told = "add_special_tokens" in (self._config.body_fields or {})
            # A completions server adds the start token of its tokenizer to every text.
            text = text if is_told else self._tokenizer.without_start(text)
            return text, turns.used_feedback
        return turns.messages, turns.used_feedback

    def _version(self) -> str:
        settings = asdict(self._config)
        decides = {name: settings[name] for name in settings.keys() - _NOT_DECIDING} | {
            "model": self._api.model,
            "template": self._template.version if self._config.reads_feedback else None,
            "vocabulary": self._tokenizer.vocab_fingerprint,
        }
        return settings_version(CODE_VERSION, decides)

    @property
    def _api(self) -> Continuation:
        if self._continuation is None:
            raise ServiceUnavailable("the API has not answered yet", retry_after_s=1)
        return self._continuation


def _no_draws(elsewhere: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{n} draws have {name} instead of text" for name, n in elsewhere.items())


def _as_arrays(counts: dict[int, Counter[int]], num_positions: int) -> Distributions:
    K = max([1, *(len(tokens) for tokens in counts.values())])
    ids_PK = np.full((num_positions, K), -1, np.int32)
    logprobs_PK = np.full((num_positions, K), MISSING, np.float32)
    for p, tokens in counts.items():
        total = tokens.total()
        for k, (token, times) in enumerate(tokens.most_common()):
            ids_PK[p, k] = token
            logprobs_PK[p, k] = np.log(times / total)
    return Distributions(ids_PK=ids_PK, logprobs_PK=logprobs_PK, own_logprobs_P=None)
