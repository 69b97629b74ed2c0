"""Completion requests of scoring clients, and the replies.

Scores of a prompt do not depend on its continuation, so sampling settings are ignored, except
those that ask for generated text. `prompt_logprobs` says how many entries each position gets; -1,
which is the whole vocabulary at a vLLM server, is as many as the expert gives. `echo` with
`logprobs` is OpenAI's older way of asking: the same rows come back in its shape too, with tokens
written as `token_id:N`. Where such a request lets a token be generated, one without a score stands
at the end, because clients of this way cut it off.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Annotated, Any, Final, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from preceptor_clients.contract.errors import Invalid
from preceptor_clients.contract.schemas import Capabilities, PrefixAnswer
from preceptor_clients.contract.tokenization import Text

_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_Sequence = Annotated[list[_TokenId], Field(min_length=2)]
_Several = Field(min_length=1, max_length=256)
_IDS: Final = "prompt_token_ids"

Row = dict[str, dict[str, Any]]
"""One position: entries by id."""


class Completion(BaseModel):
    """The fields of a completion request that scoring needs; sampling settings are ignored."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    prompt: (
        _Sequence | Annotated[list[_Sequence], _Several] | Text | Annotated[list[Text], _Several]
    )
    """Ids or texts. `prompt_token_ids`, in the request or in an object here, is the same."""
    prompt_logprobs: Annotated[int, Field(ge=-1)] | None = None
    """Entries per position; -1 is as many as the expert gives."""
    echo: bool = False
    """Asks for the rows in the older shape of OpenAI's completions too."""
    logprobs: Annotated[int, Field(ge=0)] | None = None
    """Entries per position of an echo; without `echo` it has no effect (nothing is generated)."""
    add_special_tokens: bool = True
    """Whether the expert's tokenizer puts its special tokens around a text."""
    model: str | None = None
    """The expert that the address names, or absent."""
    temperature: float | None = None
    """0 or 1; a score does not depend on it."""
    max_tokens: int | None = None
    """0 or 1; nothing is generated."""
    n: int | None = None
    """1; nothing is generated."""
    stream: bool | None = None
    """False; replies are sent whole."""

    @model_validator(mode="before")
    @classmethod
    def _ids_are_a_prompt(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        fields = cast("dict[str, Any]", sent)
        if fields.get(_IDS) is not None:
            if fields.get("prompt") not in (None, "", fields[_IDS]):
                raise ValueError("prompt: differs from prompt_token_ids")
            fields = fields | {"prompt": fields[_IDS]}
        return fields | {"prompt": _ids_of(fields.get("prompt"))}

    @model_validator(mode="after")
    def _asks_for_scores(self) -> Self:
        if self.prompt_logprobs is None and not self.echo:
            raise ValueError("prompt_logprobs: set it, or echo with logprobs")
        if self.temperature not in (None, 0.0, 1.0):
            raise ValueError(
                "temperature: scores are of temperature 1 only; leave it out, or send 0 or 1"
            )
        if self.n not in (None, 1):
            raise ValueError("n: nothing is generated here, so `n` is 1")
        if self.max_tokens not in (None, 0, 1):
            raise ValueError("max_tokens: nothing is generated here; ask for at most 1")
        if self.stream:
            raise ValueError("stream: streaming is not supported")
        return self

    def prompts(self) -> list[list[int] | str]:
        """The sequences to be scored, each as ids or as a text."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [cast("list[int] | str", self.prompt)]
        return cast("list[list[int] | str]", self.prompt)

    def num_logprobs(self, can: Capabilities) -> int:
        """Entries of each position; the whole vocabulary is as much of it as the expert gives."""
        asked = (self.logprobs or 0) if self.prompt_logprobs is None else self.prompt_logprobs
        if asked >= 0:
            return asked
        most = [limit for limit in (can.max_top_k, can.vocab_size) if limit is not None]
        if not most:
            raise Invalid("the expert declares no number of entries", field="prompt_logprobs")
        return min(most)


def _ids_of(prompt: Any) -> Any:
    """A prompt without the objects that vLLM's clients put around ids."""
    if isinstance(prompt, list):
        return [_ids_of(part) for part in cast("list[Any]", prompt)]
    fields = cast("dict[str, Any]", prompt) if isinstance(prompt, dict) else {}
    return fields.get(_IDS, cast("Any", prompt))


def scored(
    asked: Completion,
    expert: str,
    sequences: list[list[int]],
    answers: list[PrefixAnswer],
    num_logprobs: int,
) -> bytes:
    """The reply, as JSON."""
    choices: list[dict[str, Any]] = []
    for index, (ids, answer) in enumerate(zip(sequences, answers, strict=True)):
        rows = [_row(answer, t, num_logprobs) for t in range(len(ids) - 1)]
        choices.append(
            {
                "index": index,
                "text": "",
                "logprobs": _echoed(ids, rows, asked.max_tokens or 0) if asked.echo else None,
                "finish_reason": "length",
                "stop_reason": None,
                "prompt_token_ids": ids,
                "prompt_logprobs": [None, *rows],
            }
        )
    tokens = sum(map(len, sequences))
    page = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": expert,
        "choices": choices,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
    }
    return json.dumps(page, allow_nan=False, separators=(",", ":")).encode()


def _row(answer: PrefixAnswer, t: int, num_logprobs: int) -> Row:
    """One position: the best entries by id, and the token of the prompt."""
    n = int(answer.num_entries_P[t])
    ids, logprobs = answer.ids_PK[t, :n].tolist(), answer.logprobs_PK[t, :n].tolist()
    ranked = {
        str(token): {"logprob": logprob, "rank": rank, "decoded_token": None}
        for rank, (token, logprob) in enumerate(zip(ids, logprobs, strict=True), start=1)
    }
    own = str(int(answer.token_ids_P[t]))
    row = dict(list(ranked.items())[:num_logprobs])
    if own in ranked:
        row[own] = ranked[own]
    elif answer.own_mask_P[t]:
        logprob = float(answer.own_logprobs_P[t])
        row[own] = {"logprob": logprob, "rank": n + 1, "decoded_token": None}
    return row


def _echoed(ids: list[int], rows: list[Row], num_generated: int) -> dict[str, list[Any]]:
    """The same rows in the shape of an echo."""
    nothing: list[None] = [None] * num_generated
    own = [row[str(token)]["logprob"] for token, row in zip(ids[1:], rows, strict=True)]
    top = [{_name(token): cell["logprob"] for token, cell in row.items()} for row in rows]
    names = [_name(token) for token in ids] + [""] * num_generated
    return {
        "tokens": names,
        "token_logprobs": [None, *own, *nothing],
        "top_logprobs": [None, *top, *nothing],
        "text_offset": [0] * len(names),
    }


def _name(token: int | str) -> str:
    return f"token_id:{token}"
