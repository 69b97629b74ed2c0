"""`expert check` passes an expert that is right and names what is wrong with each that is not."""

import json

import httpx
import numpy as np
import pytest
from faults import (
    AllPositions,
    CandidatesByRank,
    CutContext,
    EarlyByOne,
    LateByOne,
    NormalisedOverTopK,
    OtherVocabulary,
    PaddedInBatch,
    RawLogits,
    ShiftedOwn,
    StaleWeights,
    SwappedInBatch,
    TemperatureIgnored,
    TemperatureSaid,
    TemperatureTwice,
    Unconditional,
    UniformAnswers,
    Wandering,
    ZeroOwn,
    ZeroRows,
)
from ngram import FINGERPRINT, Ngram, NgramExpert, VersionedExpert

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.conformance.verdict import Report
from preceptor_clients.contract.known import KnownAnswers, KnownCase
from preceptor_clients.contract.schemas import ServiceLimits, WeightManifest, WeightsOffer
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall
from preceptor_clients.sdk.service import service_app


def known_answers(with_logprobs: bool = True) -> KnownAnswers:
    """Text of the model, and its log-probs by the model itself."""
    model, cases = Ngram(), []
    for seed in range(4):
        prompt, response = np.split(model.sample(96, seed), [16])
        rows = model.logprobs_TV(prompt, response)[:-1]
        own = rows[np.arange(len(response)), response]
        cases.append(
            KnownCase(
                prompt_ids=tuple(prompt.tolist()),
                response_ids=tuple(response.tolist()),
                logprobs=tuple(own.tolist()) if with_logprobs else None,
            )
        )
    return KnownAnswers(vocab_fingerprint=FINGERPRINT, cases=tuple(cases))


def offer() -> WeightsOffer:
    return WeightsOffer(
        manifests=tuple(
            WeightManifest(
                version=f"p/l/{step}",
                uri="file:///weights",
                files={"model.safetensors": "0" * 64},
                vocab_fingerprint=FINGERPRINT,
            )
            for step in range(2)
        )
    )


async def report_on(app, *only: str, **options) -> Report:
    transport = httpx.ASGITransport(app)
    return await check_expert("http://expert", CheckOptions(**options), transport, only)


async def test_an_expert_that_is_right_passes_every_check():
    report = await report_on(service_app(NgramExpert(), key="k"), key="k", known=known_answers())

    assert report.ok, report.as_text()
    skipped = {v.check for v in report.verdicts if v.state == "skipped"}
    assert skipped == {"weights"}
    assert json.loads(report.as_json())["ok"] is True


async def test_an_expert_that_takes_one_query_a_call_is_asked_one_by_one():
    class Narrow(NgramExpert):
        def info(self):
            info = super().info()
            return info.model_copy(update={"limits": ServiceLimits(max_batch=1)})

    report = await report_on(service_app(Narrow()), "door", "normalisation", "batch", "limits")

    assert report.ok, report.as_text()


async def test_an_expert_with_versioned_weights_that_is_right_passes_every_check():
    report = await report_on(service_app(VersionedExpert()), weights=offer())

    assert report.ok, report.as_text()
    skipped = {v.check for v in report.verdicts if v.state == "skipped"}
    assert skipped == {"key", "known", "temperature"}


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (EarlyByOne, "index"),
        (LateByOne, "index"),
        (ShiftedOwn, "index"),
        (ZeroOwn, "normalisation"),
        (ZeroRows, "normalisation"),
        (UniformAnswers, "context"),
        (Unconditional, "context"),
        (TemperatureSaid, "temperature"),
        (CutContext, "truncation"),
        (NormalisedOverTopK, "normalisation"),
        (RawLogits, "door"),
        (SwappedInBatch, "batch"),
        (PaddedInBatch, "batch"),
        (Wandering, "repeatable"),
        (AllPositions, "positions"),
        (CandidatesByRank, "candidates"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_fault_is_found_from_outside(fault, check):
    report = await report_on(service_app(fault()), check)

    assert report.failed() == (check,), report.as_text()


@pytest.mark.parametrize("fault", [TemperatureIgnored, TemperatureTwice, OtherVocabulary])
async def test_a_good_distribution_of_the_wrong_model_is_found_by_known_answers(fault):
    report = await report_on(service_app(fault()), "known", known=known_answers())

    assert report.failed() == ("known",), report.as_text()


@pytest.mark.parametrize("fault", [TemperatureIgnored, TemperatureTwice])
async def test_a_temperature_is_found_by_ordinary_text_alone(fault):
    text = known_answers(with_logprobs=False)

    report = await report_on(service_app(fault()), "temperature", "known", known=text)

    assert report.failed() == ("temperature",), report.as_text()


async def test_old_weights_are_found_by_known_answers():
    report = await report_on(service_app(NgramExpert(seed=1)), "known", known=known_answers())

    assert "known" in report.failed(), report.as_text()


async def test_old_weights_under_a_new_name_are_found():
    report = await report_on(service_app(StaleWeights()), "weights", weights=offer())

    assert report.failed() == ("weights",), report.as_text()


async def test_a_shift_is_called_a_shift():
    report = await report_on(service_app(EarlyByOne()), "index")

    [verdict] = report.verdicts
    assert "prompt's last token is entry 0" in verdict.mend
    assert "FAIL index" in report.as_text()


async def test_token_ids_outside_the_declared_vocabulary_fail():
    class WithTokenizer(NgramExpert):
        first = 0

        async def tokenize(self, call: TokenizeCall) -> TokenIds:
            return TokenIds(ids=np.arange(self.first, self.first + 4, dtype=np.int32))

    expert = WithTokenizer()
    right = await report_on(service_app(expert), "vocabulary")
    expert.first = expert.capabilities.vocab_size - 3
    wrong = await report_on(service_app(expert), "vocabulary")

    assert right.ok, right.as_text()
    assert not wrong.ok
    assert f"ids [{expert.capabilities.vocab_size}] outside" in wrong.as_text()


async def test_all_mistakes_of_the_error_replies_are_reported_at_once():
    report = await report_on(PlainErrors(service_app(NgramExpert())), "errors")

    [verdict] = report.verdicts
    assert verdict.state == "failed"
    for what in ("not JSON", "unknown field", "empty response", "text body", "unknown route"):
        assert what in verdict.expected
        assert what in verdict.found
    assert verdict.mend.count("RFC 9457") == 1


class PlainErrors:
    """Says every error as a text."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        async def plain(message):
            if message["type"] == "http.response.start" and message["status"] >= 400:
                message = message | {"headers": [(b"content-type", b"text/plain")]}
            await send(message)

        await self._app(scope, receive, plain)
