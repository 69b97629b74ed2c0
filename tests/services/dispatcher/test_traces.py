"""Spans of gateway, dispatcher and expert are one trace, whose id is that of the request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dispatch_parts import query, submission
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from preceptor_clients.kit import request_ids, tracing

ID = "5f0c2d7c8d6f4f0f9f3e6f1b2a3c4d5e"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.trace_to(SimpleSpanProcessor(exporter), "test")
    yield exporter
    tracing.trace_to(None, "test")


async def test_a_question_is_one_trace_through_every_process(make_deployment, moody, spans) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        with request_ids.serving(ID):
            await gateway.ask(submission("k", query("well")))

    named = {s.name for s in spans.get_finished_spans() if s.context.trace_id == int(ID, 16)}
    # The trainer asks the gateway, the dispatcher calls the expert, and reports to the gateway.
    assert {
        "POST /v1/logprobs",
        "call moody",
        "answer /v1/logprobs",
        "POST /v1/internal/reports",
    } <= named


def test_a_call_for_two_requests_is_linked_to_the_second(spans) -> None:
    with request_ids.serving(f"{ID},other"), tracing.span("call"):
        pass

    [span] = spans.get_finished_spans()
    assert span.context.trace_id == int(ID, 16)
    assert len(span.links) == 1


def test_a_span_within_another_is_its_child(spans) -> None:
    with request_ids.serving(ID), tracing.span("outer"), tracing.span("inner"):
        pass

    inner, outer = spans.get_finished_spans()
    assert (inner.name, inner.parent.span_id) == ("inner", outer.context.span_id)


def test_without_a_collector_nothing_is_traced() -> None:
    tracing.start_tracing("gateway", {})

    assert not tracing.is_on()
