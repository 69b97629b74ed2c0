"""The error tree of preceptor, and its rendering as RFC 9457 problem details.

    PreceptorError                      status  code
    ├── Invalid                         422     invalid              a value is not allowed
    │   └── ContextTooLong              422     context-too-long
    ├── KeyReused                       422     idempotency-key-reused
    ├── MalformedFrame                  400     malformed-frame      not a valid frame
    ├── IncompatibleVersion             400     incompatible-version
    ├── Unauthorised                    401     unauthorised
    ├── Forbidden                       403     forbidden
    ├── NotFound                        404     not-found
    ├── MethodNotAllowed                405     method-not-allowed
    ├── RequestTimeout                  408     request-timeout      head or body came too slowly
    ├── Conflict                        409     conflict
    │   ├── VocabularyMismatch          409     vocabulary-mismatch
    │   └── StaleFence                  409     stale-fence          claimed again later
    ├── Cancelled                       410     cancelled
    ├── TooLarge                        413     too-large
    ├── UnsupportedMediaType            415     unsupported-media-type
    ├── WeightsNotHere                  425     weights-not-here
    ├── QueueFull                       429     queue-full
    ├── KeyOverLimit                    429     key-over-limit       the caller's own limit
    ├── HeadTooLarge                    431     head-too-large
    ├── ServiceFailed                   502     service-failed       a service failed
    │   └── AnswerRefused               502     answer-refused       a check of the answer failed
    ├── ServiceUnavailable              503     unavailable
    └── DeadlineExceeded                504     deadline-exceeded

A problem always names the field at fault where there is one. Every field of a received problem is
optional (RFC 9457), so `from_problem` fills what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

PROBLEM_MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:preceptor:problem:"
_OWN_FIELD = re.compile(r"([a-z][a-z_.]*): ")


_MOST_DETAIL = 4000
_MOST_ERRORS = 100
_LONGEST_WAIT_S = 86_400.0


def bounded_seconds(value: object) -> float | None:
    """A wait clamped to the range from 0 to one day; None where the value is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if value != value:
        return None
    return float(max(0, min(_LONGEST_WAIT_S, value)))


def _bounded_words(value: object) -> object:
    return value[:_MOST_DETAIL] if isinstance(value, str) else value


def _bounded_status(value: object) -> int:
    """A status from 400 to 599 as it is; 500 for any other value that a server sent."""
    return value if type(value) is int and 400 <= value <= 599 else 500


def _bounded_errors(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    return cast("Sequence[Any]", value)[:_MOST_ERRORS]


Words = Annotated[str, BeforeValidator(_bounded_words)]


class FieldError(BaseModel):
    """One field at fault."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    field: Words
    """Path of the field, as in `items[3].query.response_ids`."""
    detail: Words
    """What is wrong with it."""


class ProblemDetails(BaseModel):
    """RFC 9457 problem details, with our members `code`, `errors` and `retry_after_s`.

    They may come from any service, so texts and lists over the limits are cut.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    type: Words = "about:blank"
    """Always `about:blank`: the code says which problem it is."""
    title: Words = "error"
    """The problem in general, in a few words."""
    status: Annotated[int, BeforeValidator(_bounded_status)] = 500
    """The HTTP status. For one query of a call: the status of a call with that query alone."""
    detail: Words = ""
    """What went wrong and what to do, in a sentence."""
    code: Words = "error"
    """Stable name of the problem, such as `vocabulary-mismatch`."""
    errors: Annotated[tuple[FieldError, ...], BeforeValidator(_bounded_errors)] = ()
    """The fields at fault."""
    retry_after_s: Annotated[float | None, BeforeValidator(bounded_seconds)] = None
    """Seconds after which a retry may succeed; absent where a retry does not help."""
    instance: Words | None = None
    """Path of the request."""


class PreceptorError(Exception):
    """Root of the tree; `field` names what the sender should change."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or ((FieldError(field=field, detail=detail),) if field else ())
        self.retry_after_s = retry_after_s

    @property
    def blames_request(self) -> bool:
        """Whether the same request would be refused again."""
        return 400 <= self.status < 500 and not self.retryable

    def problem(self, instance: str | None = None) -> ProblemDetails:
        """This error as problem details."""
        return ProblemDetails(
            type=_TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            errors=self.errors,
            retry_after_s=self.retry_after_s,
            instance=instance,
        )


class Invalid(PreceptorError):
    status, code, title = 422, "invalid", "Invalid value"


class ContextTooLong(Invalid):
    code, title = "context-too-long", "Context too long"


class MalformedFrame(PreceptorError):
    status, code, title = 400, "malformed-frame", "Malformed frame"


class IncompatibleVersion(PreceptorError):
    status, code, title = 400, "incompatible-version", "The versions do not work together"


class Unauthorised(PreceptorError):
    status, code, title = 401, "unauthorised", "Unauthorised"


class Forbidden(PreceptorError):
    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(PreceptorError):
    status, code, title = 404, "not-found", "Not found"


class MethodNotAllowed(PreceptorError):
    status, code, title = 405, "method-not-allowed", "Method not allowed"


class RequestTimeout(PreceptorError):
    status, code, title = 408, "request-timeout", "The request came too slowly"
    retryable = True


class Conflict(PreceptorError):
    status, code, title = 409, "conflict", "Conflict"


class VocabularyMismatch(Conflict):
    code, title = "vocabulary-mismatch", "Vocabulary mismatch"


class StaleFence(Conflict):
    code, title = "stale-fence", "The job was claimed again after this claim"


class Cancelled(PreceptorError):
    status, code, title = 410, "cancelled", "The ticket was cancelled"


class TooLarge(PreceptorError):
    status, code, title = 413, "too-large", "The body is over the limit"


class UnsupportedMediaType(PreceptorError):
    status, code, title = 415, "unsupported-media-type", "The body is neither JSON nor a frame"


class KeyReused(PreceptorError):
    status, code = 422, "idempotency-key-reused"
    title = "The idempotency key was used with another payload"


class WeightsNotHere(PreceptorError):
    status, code, title = 425, "weights-not-here", "This replica does not have the wanted weights"
    retryable = True


class QueueFull(PreceptorError):
    status, code, title = 429, "queue-full", "The queue is full"
    retryable = True


class KeyOverLimit(PreceptorError):
    status, code, title = 429, "key-over-limit", "The key is over its limit"
    retryable = True


class HeadTooLarge(PreceptorError):
    status, code, title = 431, "head-too-large", "The head of the request is over the limit"


class ServiceFailed(PreceptorError):
    status, code, title = 502, "service-failed", "The service answered with an error"


class AnswerRefused(ServiceFailed):
    """A check of the answer failed; `check` is the name of that check."""

    code, title = "answer-refused", "The expert's answer failed a check"

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}", field=f"answer.{check}")
        self.check = check


class ServiceUnavailable(PreceptorError):
    status, code, title = 503, "unavailable", "The service does not answer"
    retryable = True


class DispatcherStopped(ServiceUnavailable):
    code, title = "dispatcher-stopped", "The dispatcher was stopped before the service answered"


class DeadlineExceeded(PreceptorError):
    status, code, title = 504, "deadline-exceeded", "The deadline passed"


def _tree(root: type[PreceptorError]) -> dict[str, type[PreceptorError]]:
    """Every class by its code, parents before children."""
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_problem(problem: ProblemDetails) -> PreceptorError:
    """The error that `problem` describes: by its code, else by its status."""
    detail = problem.detail or problem.title
    known = _tree(PreceptorError)
    cls = known.get(problem.code)
    if cls is AnswerRefused:
        check, _, rest = detail.partition(": ")
        return AnswerRefused(check, rest)
    if cls is None or cls is PreceptorError:
        cls = next((c for c in known.values() if c.status == problem.status), ServiceFailed)
    return cls(detail, errors=problem.errors, retry_after_s=problem.retry_after_s)


def from_validation(error: ValidationError, prefix: str = "") -> Invalid:
    """Converts a failed pydantic validation to `Invalid`: every field at fault, with its path."""
    errors = tuple(
        _field_error(_path(prefix, item["loc"]), str(item["msg"]))
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    )
    summary = "; ".join(f"{e.field}: {e.detail}" for e in errors[:3])
    return Invalid(summary or "the body is not valid", errors=errors)


def _field_error(path: str, message: str) -> FieldError:
    """Validators of a whole message write `field: detail`; that field is appended to the path."""
    detail = message.removeprefix("Value error, ")
    own = _OWN_FIELD.match(detail)
    if own is not None:
        path = f"{path}.{own[1]}" if path else own[1]
        detail = detail[own.end() :]
    return FieldError(field=path or "body", detail=detail)


def _path(prefix: str, loc: tuple[int | str, ...]) -> str:
    path = prefix
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    return path
