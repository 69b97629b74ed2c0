"""What the tests of the clients share: a query, an honest expert's numbers, two small services."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, settings

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
    WeightsOffer,
)
from preceptor_clients.sdk.answers import Distributions, build_answer

from .honest import FINGERPRINT, VOCAB, answer_of, honest_distributions, query_of

settings.register_profile(
    "preceptor",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("preceptor")


class Expert:
    """Answers honestly; keeps what it was asked; can be told to fail or to be slow."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[PrefixQuery], list[str]]] = []
        self.offers: list[WeightsOffer] = []
        self.raises: Exception | None = None
        self.replies: list[object] | None = None
        self.delay_s = 0.0
        self.cancelled = asyncio.Event()
        self.is_ready = True
        self.limits = ServiceLimits(max_batch=4)
        self.exact = False

    def info(self) -> ServiceInfo:
        capabilities = Capabilities(
            vocab_fingerprint=FINGERPRINT, vocab_size=VOCAB, candidates=True, max_top_k=8
        )
        return ServiceInfo(
            name="e", role="expert", version="1", capabilities=capabilities, limits=self.limits
        )

    async def logprobs(self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]):
        self.asked.append((list(queries), list(answer_keys)))
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.raises is not None:
            raise self.raises
        if self.replies is not None:
            return self.replies
        return [
            build_answer(
                q, honest_distributions(q), expert="e", expert_version="1", exact=self.exact
            )
            for q in queries
        ]

    async def offer_weights(self, offer: WeightsOffer) -> None:
        self.offers.append(offer)

    def ready(self) -> bool:
        return self.is_ready


class Source:
    """Says how long a response is."""

    def info(self) -> ServiceInfo:
        return ServiceInfo(name="s", role="source", version="1")

    async def feedback(
        self, queries: Sequence[FeedbackQuery]
    ) -> Sequence[FeedbackAnswer | PreceptorError]:
        def item(query: FeedbackQuery) -> FeedbackItem:
            length = float(len(query.response_ids))
            return FeedbackItem(id="i", kind="verdict", score=length, source="s", version="1")

        return [FeedbackAnswer(items=(item(q),), source="s", source_version="1") for q in queries]


@pytest.fixture
def make_query() -> Callable[..., PrefixQuery]:
    return query_of


@pytest.fixture
def make_distributions() -> Callable[..., Distributions]:
    return honest_distributions


@pytest.fixture
def make_answer() -> Callable[..., PrefixAnswer]:
    return answer_of


@pytest.fixture
def expert() -> Expert:
    return Expert()


@pytest.fixture
def source() -> Source:
    return Source()
