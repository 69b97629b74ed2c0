"""Requests for the log-probs of a prompt in three dialects, and parsers of the replies.

Each reply is checked token by token against the ids that were sent:

- vLLM: `prompt_logprobs` of `/v1/completions`. k entries by id, and the prompt's own token, which
is
  one more entry where it is not among the best; the first row is null.
- SGLang: `/generate` with `return_logprob`. Requested from one token earlier, because the first
  requested row is always null; that row is dropped.
- OpenAI's old completions: `echo` with `logprobs`. Entries by text: entries whose text is shared by
  several ids are ambiguous.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
https://docs.sglang.io/basic_usage/sampling_params.html
https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, cast

from preceptor_clients.contract.errors import ServiceFailed
from preceptor_services.experts.remote.scoring.rows import Row, make_row
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.kit.upstream import member

_TOKEN_ID: Final = "token_id:"


class Dialect(Protocol):
    """Requests and replies of one kind of server."""

    name: ClassVar[str]
    path: ClassVar[str]
    generates: ClassVar[int]
    """Tokens that the server must generate at least; they need room in its context."""

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """The request body for the tokens from index `first` (at least 1) on."""
        ...

    def rows(self, reply: Any, ids: Sequence[int], first: int, top_k: int) -> list[Row]:
        """One row for each of those tokens.

        Raises:
            ServiceFailed: the reply is about other tokens or does not match the request.
        """
        ...


class VllmPrompt:
    """vLLM's `prompt_logprobs`."""

    name: ClassVar[str] = "vllm"
    path: ClassVar[str] = "/v1/completions"
    generates: ClassVar[int] = 1

    def __init__(self, tokenizer: StudentTokenizer) -> None:
        self._tokenizer = tokenizer

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """Requests the whole prompt for any `first`: the server has no start index."""
        return {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": top_k,
        }

    def rows(self, reply: Any, ids: Sequence[int], first: int, top_k: int) -> list[Row]:
        """Rows keyed by id."""
        table = _list(member(reply, "choices", 0, "prompt_logprobs"), "prompt_logprobs")
        _check_length("prompt_logprobs", len(table), len(ids))
        found = list[Row]()
        for t in range(first, len(ids)):
            cells = _row(table, t)
            given = {_int(key): _number(member(cell, "logprob")) for key, cell in cells.items()}
            if ids[t] not in given:
                raise _other_token(t, ids[t], "no entry for it in its row")
            own = cells.get(str(ids[t]))
            _check_text(self._tokenizer, t, ids[t], member(own, "decoded_token"))
            found.append(
                make_row(
                    t,
                    ids[t],
                    None,
                    given,
                    self._tokenizer.vocab_size,
                    own_is_added=True,
                    own_rank=_rank(member(own, "rank")),
                )
            )
        return found


class SglangInput:
    """The dialect of SGLang's own route."""

    name: ClassVar[str] = "sglang"
    path: ClassVar[str] = "/generate"
    generates: ClassVar[int] = 0

    def __init__(self, tokenizer: StudentTokenizer) -> None:
        self._tokenizer = tokenizer

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """Does not start at 0, because the server would then not use its cached prefixes."""
        return {
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": first - 1,
            "top_logprobs_num": top_k,
        }

    def rows(self, reply: Any, ids: Sequence[int], first: int, top_k: int) -> list[Row]:
        """Rows of `[log-prob, id, text]`."""
        own = _list(member(reply, "meta_info", "input_token_logprobs"), "input_token_logprobs")
        top = _list(member(reply, "meta_info", "input_top_logprobs"), "input_top_logprobs")
        for name, table in (("input_token_logprobs", own), ("input_top_logprobs", top)):
            _check_length(name, len(table), len(ids) - first + 1)
        found = list[Row]()
        for t in range(first, len(ids)):
            cell = own[t - first + 1]
            if member(cell, 1) != ids[t]:
                raise _other_token(t, ids[t], f"id {member(cell, 1)}")
            given = {
                _int(member(entry, 1)): _number(member(entry, 0))
                for entry in _list(top[t - first + 1], f"input_top_logprobs[{t - first + 1}]")
            }
            own_logprob = _number(member(cell, 0))
            found.append(make_row(t, ids[t], own_logprob, given, self._tokenizer.vocab_size))
        return found


class EchoedPrompt:
    """The dialect that echoes the prompt with its log-probs."""

    name: ClassVar[str] = "openai"
    path: ClassVar[str] = "/v1/completions"
    generates: ClassVar[int] = 1

    def __init__(self, tokenizer: StudentTokenizer) -> None:
        self._tokenizer = tokenizer

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """Requests one generated token, because not every server accepts 0."""
        return {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 1.0,
            "echo": True,
            "logprobs": top_k,
        }

    def rows(self, reply: Any, ids: Sequence[int], first: int, top_k: int) -> list[Row]:
        """Rows keyed by text, or by `token_id:N` where the server writes that."""
        logprobs = member(reply, "choices", 0, "logprobs")
        tokens = _list(member(logprobs, "tokens"), "logprobs.tokens")
        own = _list(member(logprobs, "token_logprobs"), "logprobs.token_logprobs")
        top = _list(member(logprobs, "top_logprobs"), "logprobs.top_logprobs")
        if not len(ids) <= len(tokens) <= len(ids) + self.generates:
            raise ServiceFailed(
                f"logprobs.tokens: has {len(tokens)} tokens, {len(ids)} were sent; the server does "
                "not echo the prompt, or has another tokenizer"
            )
        _check_length("logprobs.token_logprobs", len(own), len(tokens))
        _check_length("logprobs.top_logprobs", len(top), len(tokens))
        found = list[Row]()
        for t in range(first, len(ids)):
            _check_text(self._tokenizer, t, ids[t], tokens[t])
            given = self._by_id(_row(top, t), ids[t], top_k)
            found.append(
                make_row(
                    t,
                    ids[t],
                    _number(own[t]),
                    given,
                    self._tokenizer.vocab_size,
                    own_is_added=True,
                )
            )
        return found

    def _by_id(self, cells: Mapping[str, Any], own: int, top_k: int) -> dict[int, float]:
        """Entries by id; a text that is not a single id gets a unique negative number.

        An object has each text once, so one id may hide a better one with the same text. Where a
        text of several ids is present and cells are missing, the best entries are not known.
        """
        given = dict[int, float]()
        for n, (text, logprob) in enumerate(cells.items()):
            token = _id_of(self._tokenizer, text)
            given[-1 - n if token is None else token] = _number(logprob)
        own_is_extra = own in given and given[own] <= min(given.values())
        hidden = min(given, default=0) < 0 and len(cells) < top_k + own_is_extra
        return {} if hidden else given


DIALECTS: Final[tuple[type[VllmPrompt] | type[SglangInput] | type[EchoedPrompt], ...]] = (
    VllmPrompt,
    SglangInput,
    EchoedPrompt,
)


def _id_of(tokenizer: StudentTokenizer, text: str) -> int | None:
    number = text.removeprefix(_TOKEN_ID)
    if number != text and number.isdecimal():
        return int(number)
    return tokenizer.id_of_text.get(text)


def _check_text(tokenizer: StudentTokenizer, t: int, token: int, text: Any) -> None:
    """Checks that the text of a token belongs to the id that was sent, if it belongs to one id.

    Parts of a non-ASCII character are written in many ways, so they are not compared.
    """
    if not isinstance(text, str) or not text.isascii():
        return
    named = _id_of(tokenizer, text)
    if named is not None and named != token and tokenizer.decode([token]) != text:
        raise _other_token(t, token, f"{text!r}, which is id {named}")


def _other_token(t: int, token: int, found: str) -> ServiceFailed:
    return ServiceFailed(
        f"token {t}: id {token} was sent, the server has {found}; it has another tokenizer, or its "
        "rows are shifted"
    )


def _check_length(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ServiceFailed(f"{name}: has {found} rows for {expected} tokens")


def _row(table: Sequence[Any], t: int) -> dict[str, Any]:
    if not isinstance(table[t], dict):
        raise ServiceFailed(
            f"the server returned no log-probs for token {t}; only the first may have none"
        )
    return cast("dict[str, Any]", table[t])


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ServiceFailed(f"{name}: is missing; the server returns no log-probs of a prompt")
    return cast("list[Any]", value)


def _int(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ServiceFailed(f"{value!r} is not a token id") from None


def _rank(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float:
    """A number of a reply; `null` becomes NaN, which is left out of every row."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ServiceFailed(f"{value!r} is not a log-prob")
    return float(value)
