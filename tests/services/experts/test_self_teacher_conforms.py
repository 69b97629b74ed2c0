"""The self-teacher passes the suite that every expert must pass."""

import httpx

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.schemas import WeightsOffer
from preceptor_clients.sdk.service import service_app


async def test_the_self_teacher_passes_the_conformance_suite(policy, make_teacher):
    first = policy.publish(1)
    second = policy.publish(2, parent=first.version)
    options = CheckOptions(
        weights=WeightsOffer(manifests=(first, second)), vocab_fingerprint=policy.vocab_fingerprint
    )
    transport = httpx.ASGITransport(service_app(make_teacher()))

    report = await check_expert("http://expert", options, transport)

    assert report.ok, report.as_text()
    passed = {v.check for v in report.verdicts if v.state == "passed"}
    assert {"door", "index", "context", "normalisation", "batch", "weights"} <= passed
