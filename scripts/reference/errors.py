"""The error codes, from the error tree."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from preceptor_clients.contract.errors import PreceptorError
from reference.markdown import code, heading, join, table

INTRODUCTION = """
# Errors

A call that fails answers with `application/problem+json` (RFC 9457): `type`, `title`, `status`,
`detail`, and the members `code`, `errors` (a list of `{"field", "detail"}`) and `retry_after_s`.
The code is stable: programs should look at it, not at the words. In Python the same error is an
exception of `preceptor_clients.contract.errors`, with `detail`, `errors` and `retry_after_s`.

*Again* says whether the same call may succeed later without a change. The clients wait and try
again by themselves until the deadline.
"""

# What the caller can do. A test compares the codes with the tree.
ADVICE = {
    "error": (
        "A fault of preceptor's own. Read the log of the process that answered, and report it."
    ),
    "invalid": "Correct the fields that `errors` names.",
    "context-too-long": (
        "Shorten the prompt or the feedback in view, or ask an expert with a longer context (`GET"
        " /v1/experts`)."
    ),
    "idempotency-key-reused": (
        "Make a new key for a new question; send the old key only with the same question."
    ),
    "malformed-frame": "Send JSON, or a frame as in [the wire format](wire-format.md).",
    "unauthorised": (
        "Send `Authorization: Bearer KEY` with a key that the deployment's `[keys]` name."
    ),
    "incompatible-version": (
        "Upgrade the part that the message names; the number before the point must be the same."
    ),
    "forbidden": (
        "Use a key with the scope that the message names, or add the scope in the deployment's "
        "file."
    ),
    "not-found": (
        "Check the name or id. A service must stand in the deployment's file or have been added."
    ),
    "method-not-allowed": "Use one of the methods that `Allow` names.",
    "conflict": "Read what is there first: somebody else changed it, or it already exists.",
    "request-timeout": (
        "Send the head within 10 seconds and the body in large pieces: at least 64 KiB in each 30 "
        "seconds until it ends."
    ),
    "vocabulary-mismatch": (
        "Use the same tokenizer for student and expert; `preceptor expert vocabulary` prints its "
        "fingerprint."
    ),
    "stale-fence": "Drop the result. The job was given to another dispatcher, whose answer counts.",
    "cancelled": "Nothing; ask again if the answer is wanted after all.",
    "too-large": "Send less at a time, or raise `[gateway] max_body_bytes`.",
    "unsupported-media-type": "Set `Content-Type` to `application/json` or the frame's type.",
    "dispatcher-stopped": (
        "Wait. The question goes to another dispatcher, or to the same one once it is started. If "
        "no dispatcher runs for the service, start one."
    ),
    "weights-not-here": (
        "Wait. The dispatcher hands the service the version's manifest and asks again."
    ),
    "queue-full": (
        "Wait for `retry_after_s`. Run more dispatchers or replicas, or raise `[gateway] "
        "max_queue`."
    ),
    "key-over-limit": (
        "Wait for `retry_after_s`. An operator may raise `max_requests_per_s` or "
        "`max_tokens_in_flight` of the key."
    ),
    "head-too-large": "Send fewer or shorter headers; data belongs into the body.",
    "service-failed": "Read the service's log; the message repeats what it said.",
    "answer-refused": (
        "Correct the expert: `preceptor expert check URL` shows which rule it breaks."
    ),
    "unavailable": "Look at `GET /v1/experts`: it gives the state of each service and the reason.",
    "deadline-exceeded": "Give more time, or find out why the service is slow (`GET /metrics`).",
}


def page() -> str:
    """One table, then a paragraph for each code."""
    found = list(errors())
    overview = table(
        ["code", "status", "again", "exception"],
        [
            [
                f"[`{error.code}`](#{error.code})",
                str(error.status),
                "yes" if error.retryable else "",
                f"`{error.__name__}`",
            ]
            for error in found
        ],
    )
    return join(INTRODUCTION, overview, *(_section(error) for error in found))


def errors() -> Iterator[type[PreceptorError]]:
    """Every error of the tree, by status and code."""
    yield from sorted(_tree(PreceptorError), key=lambda e: (e.status, e.code))


def _tree(root: type[PreceptorError]) -> Iterator[type[PreceptorError]]:
    yield root
    for child in root.__subclasses__():
        # Subclasses of tests and applications share a code of ours or bring one of their own.
        if child.__module__ == PreceptorError.__module__:
            yield from _tree(child)


def _section(error: type[PreceptorError]) -> str:
    own = inspect.cleandoc(vars(error).get("__doc__") or "")
    return join(
        heading(2, f"{code(error.code)} ({error.status})", error.code),
        f"{error.title}." if error is not PreceptorError else "Something failed inside.",
        own if error is not PreceptorError else "",
        f"**What to do:** {ADVICE.get(error.code, '')}",
    )
