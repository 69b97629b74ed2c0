"""Messages to bytes and back, in either rendering: JSON or the frame."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from preceptor_clients import frame
from preceptor_clients.errors import MalformedFrame, from_validation

JSON: Final = "application/json"
FRAME: Final = frame.MEDIA_TYPE
QUANTISED: Final = frozenset({"logprobs_PK", "candidate_logprobs_PC"})
"""Arrays that travel as u16 by default; their builders have rounded them already (`answers.build_answer`)."""

M = TypeVar("M", bound=BaseModel)


def render(
    message: BaseModel, media_type: str = FRAME, *, exact: bool = False, compress: bool = False
) -> bytes:
    """`message` as bytes of `media_type`; `exact` keeps log-probs as float32 in a frame."""
    if media_type == JSON:
        return message.model_dump_json(exclude_none=True).encode()
    quantised = frozenset[str]() if exact else QUANTISED
    return frame.encode(
        message.model_dump(exclude_none=True), compress=compress, quantised=quantised
    )


def parse(
    cls: type[M], body: bytes, media_type: str, *, limits: frame.Limits = frame.Limits()
) -> M:
    """The message of type `cls` in `body`.

    Raises:
        MalformedFrame: the bytes are neither valid JSON nor a valid frame, as `media_type` says they are.
        Invalid: they are, but fields are missing, unknown or wrong; each is named.
    """
    try:
        if media_type.partition(";")[0].strip().lower() == FRAME:
            return cls.model_validate(frame.decode(body, limits=limits))
        return cls.model_validate_json(body)
    except ValidationError as error:
        if any(e["type"] == "json_invalid" for e in error.errors(include_url=False)):
            raise MalformedFrame("the body is not JSON", field="body") from None
        raise from_validation(error) from None
