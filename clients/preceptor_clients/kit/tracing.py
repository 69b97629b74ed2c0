"""Optional OpenTelemetry traces: `pip install 'preceptor[traces]'` and OTEL_EXPORTER_OTLP_ENDPOINT.

The id of a request is the id of its trace, so that the spans of all processes are one trace without
another header, and a log line leads to its trace. A call that serves several requests belongs to
the first one's trace and has links to the others. Without the environment variable nothing of this
is imported.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from preceptor_clients.kit import request_ids

ENDPOINT_ENV: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
NAME_ENV: Final = "OTEL_SERVICE_NAME"
_TRACE_DIGITS: Final = 32
_SPAN_DIGITS: Final = 16
_tracer: Any = None


def start_tracing(process: str, env: Mapping[str, str] = os.environ) -> None:
    """Sends spans to the collector that the environment names, if it names one.

    Args:
        process: Name of this process in traces, unless OTEL_SERVICE_NAME gives one.
        env: The environment; the library reads the other OTEL_ variables by itself.

    Raises:
        ValueError: the environment names a collector, and the library is not installed.
    """
    if not env.get(ENDPOINT_ENV):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{ENDPOINT_ENV} is set, but {error.name} is not installed: "
            "pip install 'preceptor[traces]', or unset it"
        ) from None
    trace_to(BatchSpanProcessor(OTLPSpanExporter()), env.get(NAME_ENV, process))


def trace_to(processor: Any, process: str) -> None:
    """Sends spans to a span processor of OpenTelemetry; None ends it."""
    global _tracer
    if processor is None:
        _tracer = None
        return
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: process}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("preceptor")


def is_on() -> bool:
    """Whether spans are sent; check it first where requests are frequent."""
    return _tracer is not None


@contextmanager
def span(name: str, **attributes: str | int | float) -> Generator[None]:
    """A span of the request that this task serves."""
    if _tracer is None:
        yield
        return
    from opentelemetry import trace

    ids = (request_ids.current() or request_ids.new()).split(",")
    inside = trace.get_current_span().get_span_context()
    first = _place(ids[0])
    # Within a span of the same trace the library's own context is the parent.
    context = (
        None
        if inside.trace_id == first.trace_id
        else trace.set_span_in_context(trace.NonRecordingSpan(first))
    )
    links = [trace.Link(_place(other)) for other in ids[1:]]
    with _tracer.start_as_current_span(name, context=context, links=links, attributes=attributes):
        yield


def _place(request_id: str) -> Any:
    """The root of a request's trace, which all processes derive from its id."""
    from opentelemetry import trace

    digits = request_id.lower()
    if len(digits) != _TRACE_DIGITS or not set(digits) <= set("0123456789abcdef"):
        digits = hashlib.sha256(request_id.encode()).hexdigest()[:_TRACE_DIGITS]
    return trace.SpanContext(
        trace_id=int(digits, 16) or 1,
        span_id=int(digits[:_SPAN_DIGITS], 16) or 1,
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
