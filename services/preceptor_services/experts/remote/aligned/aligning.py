"""A teacher with another tokenizer, behind an OpenAI-compatible server, as an expert.

    preceptor expert serve preceptor_services.experts.remote.aligned.aligning:Aligning \\
        --option url=http://127.0.0.1:8000 \\
        --option tokenizer=STUDENT --option teacher_tokenizer=FOLDER

The teacher reads the text of the student's state in its own tokens (`alignment.py`). Each of its
entries counts for the student's token with which its bytes begin. Entries that begin with the same
student token are added up; entries without one are in the tail. A row with too little mapped mass
is masked, and `truncated` of the answer has the number of such rows. Where a query needs more
requests than `max_requests`, the requests after the first are drawn at random, and `inclusion_P`
has the probabilities.

Left out: the log-prob of the student's token where it is not among the entries.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from preceptor_clients.contract.errors import ContextTooLong, PreceptorError
from preceptor_clients.contract.fingerprint import settings_version
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery, ServiceInfo
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.sdk.context import find_template
from preceptor_services.experts.remote import positions
from preceptor_services.experts.remote.aligned.alignment import Pieces, Reading, readings
from preceptor_services.experts.remote.answer_each import answer_each
from preceptor_services.experts.remote.positions import generator_of
from preceptor_services.experts.remote.scoring.options import ScoringOptions
from preceptor_services.experts.remote.scoring.rows import Row, as_lists
from preceptor_services.experts.remote.scoring.scoring_server import ScoringServer
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.experts.remote.turns import turns_of

CODE_VERSION: Final = "3"
"""Increased whenever the answer to the same server, settings and query may change."""


@dataclass(frozen=True, kw_only=True)
class AligningConfig(ScoringOptions):
    """Options of an expert with another tokenizer."""

    name: str = "aligning"
    teacher_tokenizer: str
    """Hugging Face folder with the teacher's tokenizer and chat template."""
    max_requests: int = 16
    """Most requests for one query."""
    min_told: float = 0.5
    """A row is masked where less than this mass is mapped to tokens of the student."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_requests < 1:
            raise ValueError(f"max_requests: {self.max_requests} is below 1")
        if not 0 < self.min_told <= 1:
            raise ValueError(f"min_told: {self.min_told} is not in (0, 1]")


class Aligning:
    """An expert of the SDK; every option is a field of `AligningConfig`.

    Raises:
        ValueError: an option cannot be meant, or the teacher's folder has no chat template.
    """

    def __init__(self, **options: Any) -> None:
        self._config = config = AligningConfig(**options)
        self._student = StudentTokenizer(Path(config.tokenizer))
        self._teacher = StudentTokenizer(Path(config.teacher_tokenizer))
        if not self._teacher.has_chat_template:
            # Its prompts are messages: the student's ids say nothing to it.
            raise ValueError(
                f"teacher_tokenizer: {config.teacher_tokenizer!r} has no chat template, as those "
                "of base models have none; put a chat_template.jinja into it"
            )
        self._pieces = Pieces(self._student, self._teacher)
        self._template = find_template(config.template)
        self._server = ScoringServer(config, self._teacher)

    async def start(self) -> None:
        """Waits for the server, then detects its capabilities."""
        await self._server.start()

    async def stop(self) -> None:
        """Closes the connections."""
        await self._server.stop()

    def ready(self) -> bool:
        """Whether the server's capabilities are known."""
        return self._server.ready()

    def info(self) -> ServiceInfo:
        """Capabilities of this expert."""
        info = self._server.info(self._version(), self._student, max_context=None)
        own = {"draws_positions": True, "partial_entries": True}
        capabilities = info.capabilities.model_copy(update=own)
        return info.model_copy(update={"capabilities": capabilities})

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query; rows that cannot be aligned are masked."""
        return await answer_each(queries, self._answer)

    async def _answer(self, query: PrefixQuery) -> PrefixAnswer:
        turns = turns_of(query, self._template, reads_feedback=self._config.reads_feedback)
        context = self._teacher.encode_chat(turns.messages)
        asked = query.position_ids().tolist()
        all_of_them = await asyncio.to_thread(
            readings, self._student, self._teacher, query.response_ids.tolist(), asked
        )
        self._check_length(context, all_of_them)
        chosen, inclusion_P = self._choose(query, all_of_them)
        replies = await asyncio.gather(*(self._rows(query, context, r) for r in chosen))
        told = [entry for reply in replies for entry in reply.items()]
        lists = {row: entries for row, entries in told if entries}
        return build_answer(
            query,
            as_lists(lists, query),
            expert=self._config.name,
            expert_version=self._version(),
            mask_P=np.array([row in lists for row in range(len(asked))], np.bool_),
            exact=True,  # the service rounds later, where the reply is to be rounded
            inclusion_P=inclusion_P,
            template_version=self._template.version if self._config.reads_feedback else None,
            used_feedback=turns.used_feedback,
            truncated=_counted(len(asked) - len(lists), len(asked)),
        )

    def _choose(
        self, query: PrefixQuery, found: list[Reading]
    ) -> tuple[list[Reading], np.ndarray | None]:
        """All readings if they are few; else the first one and a random choice of the others."""
        spare = self._config.max_requests - 1
        if len(found) <= spare + 1:
            return found, None
        others = found[1:]
        chances = positions.inclusion(np.ones(len(others)), spare)
        drawn = positions.draw(chances, self._generator(query)) if spare else ()
        inclusion_P = np.ones(query.num_positions, np.float32)
        # Without a further request the others have probability 0 and are never drawn.
        for reading in others if spare else ():
            inclusion_P[list(reading.rows)] = chances[0]
        return [found[0], *(others[int(i)] for i in drawn)], inclusion_P

    def _generator(self, query: PrefixQuery) -> np.random.Generator:
        return generator_of((self._config.name, self._config.url, self._version()), query)

    async def _rows(
        self, query: PrefixQuery, context: list[int], reading: Reading
    ) -> dict[int, tuple[tuple[int, float], ...]]:
        """Entries in the student's tokens by row of the query."""
        # The last token is included only because the row at its place depends on the tokens before
        # it.
        ids, first = [*context, *reading.ids, self._pieces.anchor], len(context)
        # The same depth for every query: sums over more entries would differ.
        depth = self._server.found.max_top_k
        rows = await self._server.rows(ids, first, depth, timeout_s=query.timeout_ms / 1000)
        return {p: self._translate(rows[n], depth) for p, n in reading.rows.items()}

    def _translate(self, row: Row, top_k: int) -> tuple[tuple[int, float], ...]:
        """Entries, best first; empty where too little mass is mapped. The own token is not
        added."""
        mass: dict[int, float] = defaultdict(float)
        for teacher_id, logprob in row.entries[:top_k]:
            token = self._pieces.student_id(teacher_id)
            if token is not None and logprob > -100:
                mass[token] += math.exp(logprob)
        if math.fsum(mass.values()) < self._config.min_told:
            return ()
        return _best_first(mass)

    def _check_length(self, context: list[int], found: list[Reading]) -> None:
        longest = len(context) + max((len(r.ids) for r in found), default=0) + 1
        fitting = self._server.found.max_context
        if fitting is not None and longest > fitting:
            raise ContextTooLong(
                f"{longest} tokens in the teacher's tokenizer, it takes at most {fitting}",
                field="response_ids",
            )

    def _version(self) -> str:
        found = self._server.found
        return settings_version(
            CODE_VERSION,
            {
                "name": self._config.name,
                "model": found.model,
                "server": found.server_version,
                "dialect": found.dialect.name,
                "depth": found.max_top_k,
                "vocabularies": [self._student.vocab_fingerprint, self._teacher.vocab_fingerprint],
                "max_requests": self._config.max_requests,
                "min_told": self._config.min_told,
                "template": self._template.version if self._config.reads_feedback else None,
            },
        )


def _best_first(mass: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    ordered = sorted(mass.items(), key=lambda entry: -entry[1])
    return tuple((token, min(0.0, math.log(p))) for token, p in ordered)


def _counted(masked: int, asked: int) -> tuple[str, ...]:
    return (f"{masked} of {asked} positions could not be aligned",) if masked else ()
