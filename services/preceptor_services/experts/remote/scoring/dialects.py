"""How servers are asked for the log-probs of a prompt, and how their replies are read.

Three ways, each checked token by token against the ids that were sent:

- vLLM: `prompt_logprobs` of `/v1/completions`. k entries by id, and the token that stands there,
  which is one more where it is none of the best; the first row is null.
- SGLang: `/generate` with `return_logprob`. Asked from one token earlier and that row dropped,
  because the first row of what is asked is always null.
- OpenAI's old completions: `echo` with `logprobs`. Entries by text: those whose text several ids
  share cannot be told apart.

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
from preceptor_services.experts.remote.upstream import member

_TOKEN_ID: Final = "token_id:"


class Dialect(Protocol):
    """One way of asking."""

    name: ClassVar[str]
    path: ClassVar[str]
    generates: ClassVar[int]
    """Tokens that the server must be let generate; they need room in its context."""

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """The body that asks about the tokens from index `first` (1 at least) on."""
        ...

    def rows(self, reply: Any, ids: Sequence[int], first: int, top_k: int) -> list[Row]:
        """One row for each of those tokens.

        Raises:
            ServiceFailed: the reply is not about these tokens, or not what was asked for.
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
        """The whole prompt is scored, whatever `first` is: the server has no start."""
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
                raise _other_token(t, ids[t], "no entry for it in its own row")
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
    """SGLang's own route."""

    name: ClassVar[str] = "sglang"
    path: ClassVar[str] = "/generate"
    generates: ClassVar[int] = 0

    def __init__(self, tokenizer: StudentTokenizer) -> None:
        self._tokenizer = tokenizer

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """Starting at 0 would throw the server's cached prefixes away."""
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
    """The prompt given back with its log-probs."""

    name: ClassVar[str] = "openai"
    path: ClassVar[str] = "/v1/completions"
    generates: ClassVar[int] = 1

    def __init__(self, tokenizer: StudentTokenizer) -> None:
        self._tokenizer = tokenizer

    def request(self, model: str, ids: Sequence[int], first: int, top_k: int) -> dict[str, Any]:
        """One token is generated, because not every server takes 0."""
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
                f"logprobs.tokens: has {len(tokens)} tokens, {len(ids)} were sent; the server did "
                "not echo them, or has another tokenizer"
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
        """Texts that are no single id get numbers below 0, each its own.

        An object has each text once, so an id hides every better one of the same text: where a text
        of several ids stands and cells are missing, nothing is known of the best entries.
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
    """Where both texts name one id each, they must name the same.

    Parts of a character beyond ASCII are written in many ways, so those are not compared.
    """
    if not isinstance(text, str) or not text.isascii():
        return
    named = _id_of(tokenizer, text)
    if named is not None and named != token and tokenizer.decode([token]) != text:
        raise _other_token(t, token, f"{text!r}, which is id {named}")


def _other_token(t: int, token: int, found: str) -> ServiceFailed:
    return ServiceFailed(
        f"token {t}: id {token} was sent, the server has {found}; its tokenizer is another, or its "
        "rows are shifted"
    )


def _check_length(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ServiceFailed(f"{name}: has {found} rows for {expected} tokens")


def _row(table: Sequence[Any], t: int) -> dict[str, Any]:
    if not isinstance(table[t], dict):
        raise ServiceFailed(f"the server gave no log-probs for token {t}; only the first has none")
    return cast("dict[str, Any]", table[t])


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ServiceFailed(f"{name}: is missing; the server gives no log-probs of a prompt")
    return cast("list[Any]", value)


def _int(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ServiceFailed(f"{value!r} is no token id") from None


def _rank(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float:
    """`null` is not known; it is left out of every row."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ServiceFailed(f"{value!r} is no log-prob")
    return float(value)
