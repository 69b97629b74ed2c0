"""Known answers: log-probs of some texts, computed by the model's own library.

Some faults cannot be found from the answers alone: a temperature applied twice, old weights and ids
of another vocabulary all give valid distributions, of the wrong model. Only independently computed
numbers show them. A file of known answers is JSON:

    {"vocab_fingerprint": "...",
     "cases": [{"prompt_ids": [5, 6], "response_ids": [1, 2, 3], "logprobs": [-0.4, -2.1, -0.9]}]}

`logprobs[t]` is the natural log-prob of `response_ids[t]` given everything before it, in float32 at
temperature 1. A case without `logprobs` is text that is typical for the model; enough of it still
reveals a wrong temperature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from preceptor_clients.contract.errors import from_validation
from preceptor_clients.contract.schemas import VocabFingerprint

_TokenId = Annotated[int, Field(ge=0)]


class KnownCase(BaseModel):
    """One text with its known log-probs, if any."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt_ids: Annotated[tuple[_TokenId, ...], Field(min_length=1)]
    response_ids: Annotated[tuple[_TokenId, ...], Field(min_length=1)]
    logprobs: tuple[Annotated[float, Field(le=0)], ...] | None = None

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if self.logprobs is not None and len(self.logprobs) != len(self.response_ids):
            raise ValueError(
                f"logprobs: has {len(self.logprobs)} entries for {len(self.response_ids)} tokens"
            )
        return self


class KnownAnswers(BaseModel):
    """A file of known answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    vocab_fingerprint: VocabFingerprint
    cases: Annotated[tuple[KnownCase, ...], Field(min_length=1)]
    tolerance: Annotated[float, Field(gt=0)] = 0.15
    """Largest difference of a log-prob; the default allows for bf16."""


def load_known(path: Path) -> KnownAnswers:
    """The known answers in a file.

    Raises:
        ValueError: the file is not of the form above; the message names the field.
    """
    try:
        return KnownAnswers.model_validate_json(path.read_text(encoding="utf-8-sig"))
    except ValidationError as error:
        raise ValueError(f"known: {path}: {from_validation(error).detail}") from None
