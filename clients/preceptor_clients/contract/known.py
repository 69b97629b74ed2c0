"""Known answers: log-probs of some texts, computed by the model's own library.

Some faults cannot be found from the answers alone: a temperature applied twice, old weights and ids
of another vocabulary all give valid distributions, of the wrong model. Only independently computed
numbers show them. A file of known answers is JSON:

    {"vocab_fingerprint": "...",
     "cases": [{"prompt_ids": [5, 6], "response_ids": [1, 2, 3], "logprobs": [-0.4, -2.1, -0.9]}]}

`logprobs[t]` is the natural log-prob of `response_ids[t]` given everything before it, in float32 at
temperature 1. `entries`, beside it or in its place, holds for each t the best tokens there as pairs
of id and log-prob, `[[[7, -0.1], [4, -2.6]], ...]`: only they show that mass stands on the wrong
tokens. A case with neither is text that is typical for the model; enough of it still reveals a
wrong temperature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from preceptor_clients.contract.errors import from_validation
from preceptor_clients.contract.schemas import VocabFingerprint

_TokenId = Annotated[int, Field(ge=0)]
_Logprob = Annotated[float, Field(le=0)]
_Row = Annotated[tuple[tuple[_TokenId, _Logprob], ...], Field(min_length=1)]


class KnownCase(BaseModel):
    """One text with what is known of it, if anything."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    prompt_ids: Annotated[tuple[_TokenId, ...], Field(min_length=1)]
    """Ids of the prompt."""
    response_ids: Annotated[tuple[_TokenId, ...], Field(min_length=1)]
    """Ids of the response."""
    logprobs: tuple[_Logprob, ...] | None = None
    """Natural log-prob of each response token; None where they are not known."""
    entries: tuple[_Row, ...] | None = None
    """For each response token some of the model's most probable ids with their log-probs."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for name, values in (("logprobs", self.logprobs), ("entries", self.entries)):
            if values is not None and len(values) != len(self.response_ids):
                raise ValueError(
                    f"{name}: has {len(values)} entries for {len(self.response_ids)} tokens"
                )
        return self

    @model_validator(mode="after")
    def _each_id_once(self) -> Self:
        for t, row in enumerate(self.entries or ()):
            if len({token for token, _ in row}) != len(row):
                raise ValueError(f"entries: names an id twice in row {t}")
        return self


class KnownAnswers(BaseModel):
    """A file of known answers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    vocab_fingerprint: VocabFingerprint
    """The vocabulary of the ids."""
    cases: Annotated[tuple[KnownCase, ...], Field(min_length=1)]
    """The texts."""
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
