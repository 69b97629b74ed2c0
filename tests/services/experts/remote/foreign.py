"""A small server of other people's making: true numbers in vLLM's, SGLang's and OpenAI's shapes,
with faults to plant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer

MAX_MODEL_LEN = 49
V = 261
END = 257


def true_logprobs(ids: Sequence[int], vocab_size: int = V) -> np.ndarray:
    """`[T, V]` row t is the distribution over token t given all before it; row 0 is of nothing."""
    state, rows = 1, np.empty((len(ids), vocab_size))
    for t, token in enumerate(ids):
        rows[t] = np.random.default_rng(state).normal(0.0, 2.0, vocab_size)
        state = (state * 1_000_003 + int(token) + 1) % (1 << 61)
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)


def text_logprobs(ids: Sequence[int]) -> np.ndarray:
    """`[V]` what follows `ids`, among four letters, a line's end and the end of the text."""
    allowed = [*b"abcd\n", END]
    scores = np.full(V, -np.inf)
    seed = 7 + 31 * (ids[-1] if ids else 0)
    scores[allowed] = np.random.default_rng(seed).normal(0.0, 1.0, len(allowed))
    return scores - np.logaddexp.reduce(scores)


@dataclass
class FakeServer:
    """What it serves, what it was asked, and what is wrong with it."""

    tokenizer: StudentTokenizer
    owner: str = "vllm"
    max_logprobs: int = 20
    tokenize: bool = True
    fault: str | None = None
    """The planted fault."""
    busy: int = 0
    """How many of the next requests get a 429."""
    max_model_len: int = MAX_MODEL_LEN
    served: str = "tiny"
    fails_at: int | None = None
    """Number of the request that fails, from 1 on, once."""
    model: Any = None
    """A causal model to be served in place of the invented numbers."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/version", self.version),
                Route("/tokenize", self.tokens, methods=["POST"]),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/generate", self.generate, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    def table(self, ids: Sequence[int]) -> np.ndarray:
        """`[T, V]` as `true_logprobs` has it."""
        if self.model is None:
            return true_logprobs(ids, self.tokenizer.vocab_size)
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0, :-1].double()
        rows = logits.log_softmax(-1).numpy()
        return np.concatenate([np.full((1, rows.shape[1]), -np.inf), rows])

    async def models(self, request: Request) -> Response:
        card = {"id": self.served, "owned_by": self.owner, "max_model_len": self.max_model_len}
        return JSONResponse({"object": "list", "data": [card]})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.33.0"})

    async def tokens(self, request: Request) -> Response:
        if not self.tokenize:
            return _error(404, "Not Found")
        body = await request.json()
        ids = self.tokenizer.encode(body["prompt"])
        return JSONResponse({"tokens": [i + 1 for i in ids] if self.fault == "tokenizer" else ids})

    async def completions(self, request: Request) -> Response:
        body, refused = await self._body(request)
        if refused is not None:
            return refused
        ids = body["prompt"]
        if len(ids) + body["max_tokens"] > self.max_model_len:
            return _error(
                400, f"This model's maximum context length is {self.max_model_len} tokens"
            )
        choice: dict[str, Any] = {"index": 0, "text": "a", "finish_reason": "length"}
        k = body.get("prompt_logprobs")
        if k is not None and self.owner == "vllm":
            if k > self.max_logprobs:
                return _error(400, f"Requested prompt logprobs of {k}, greater than max allowed")
            choice["prompt_logprobs"] = self._vllm_rows(ids, k)
        elif body.get("echo") and self.owner == "openai":
            choice["logprobs"] = self._echo(ids, min(body["logprobs"], self.max_logprobs))
        return _json({"choices": [choice]})

    async def generate(self, request: Request) -> Response:
        body, refused = await self._body(request)
        if refused is not None:
            return refused
        if self.owner != "sglang":
            return _error(404, "Not Found")
        ids, start, k = body["input_ids"], body["logprob_start_len"], body["top_logprobs_num"]
        table = self.table(ids)
        own: list[Any] = [[None, ids[start], None]]
        top: list[Any] = [None]
        for t in range(start + 1, len(ids)):
            own.append([float(table[t, ids[t]]), ids[t], None])
            top.append([[float(table[t, i]), int(i), None] for i in np.argsort(-table[t])[:k]])
        return _json({"meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}})

    async def chat(self, request: Request) -> Response:
        body, refused = await self._body(request)
        if refused is not None:
            return refused
        last = body["messages"][-1]
        prefix = last["content"] if last["role"] == "assistant" else ""
        if prefix and not body.get("continue_final_message"):
            return _error(400, "Cannot continue")
        num = 1 if self.fault == "one choice" else body.get("n", 1)
        if self.model is None:
            choices = [self._draw(prefix, body["max_tokens"]) for _ in range(num)]
        else:
            turns = body["messages"][: -1 if prefix else None]
            state = [*self.tokenizer.encode_chat(turns), *self.tokenizer.encode(prefix)]
            choices = self._sample(state, num, body["max_tokens"])
        return JSONResponse(
            {"choices": [{"message": {"content": c}, "finish_reason": f} for c, f in choices]}
        )

    async def _body(self, request: Request) -> tuple[dict[str, Any], Response | None]:
        body = await request.json()
        self.asked.append((request.url.path, body))
        if self.fails_at is not None and len(self.asked) == self.fails_at:
            return body, _error(500, "Internal Server Error")
        if self.fault == "slow":
            await asyncio.sleep(1)
        if self.fault == "broken":
            return body, Response("<html>", media_type="text/html")
        if self.busy:
            self.busy -= 1
            return body, _error(429, "Rate limit reached", {"retry-after": "1"})
        return body, None

    def _vllm_rows(self, ids: list[int], k: int) -> list[Any]:
        table = self.table(ids)
        rows: list[Any] = [None]
        for t in range(1, len(ids)):
            order = np.argsort(-table[t])
            ranks = {int(i): n + 1 for n, i in enumerate(order)}
            rows.append(
                {
                    str(i): {"logprob": float(table[t, i]), "rank": ranks[i], "decoded_token": None}
                    for i in dict.fromkeys([ids[t], *map(int, order[:k])])
                }
            )
        match self.fault:
            case "missing token":
                rows[-1].pop(str(ids[-1]))
            case "no null first":
                rows = rows[1:]
            case "shifted":
                rows = [None, *rows[2:], rows[1]]
            case "zeros":
                for cell in rows[-1].values():
                    cell["logprob"] = 0.0
            case "infinite":
                rows[-1][str(ids[-1])]["logprob"] = -np.inf
            case "fewer":
                rows = [None, *(dict(list(r.items())[:4]) for r in rows[1:])]
        return rows

    def _echo(self, ids: list[int], k: int) -> dict[str, Any]:
        whole = [*ids, 97]
        table = self.table(whole)
        texts = [self.tokenizer.decode([i]) for i in range(self.tokenizer.vocab_size)]
        shown = [i + 1 for i in whole] if self.fault == "tokenizer" else whole
        top = [{texts[i]: float(row[i]) for i in np.argsort(-row)[:k]} for row in table]
        return {
            "tokens": [texts[i] for i in shown],
            "token_logprobs": [None, *(float(table[t, whole[t]]) for t in range(1, len(whole)))],
            "top_logprobs": [None, *top[1:]],
        }

    def _draw(self, prefix: str, max_tokens: int) -> tuple[str, str]:
        ids = self.tokenizer.encode(prefix)
        drawn: list[int] = []
        while len(drawn) < max_tokens:
            token = int(self._rng.choice(V, p=np.exp(text_logprobs([*ids, *drawn]))))
            if token == END:
                return self.tokenizer.decode(drawn), "stop"
            drawn.append(token)
        return self.tokenizer.decode(drawn), "length"

    def _sample(self, state: list[int], num: int, max_tokens: int) -> list[tuple[str, str]]:
        """Continuations by the model that is served."""
        rows = torch.tensor([state] * num)
        with torch.no_grad():
            for _ in range(max_tokens):
                chances = self.model(input_ids=rows).logits[:, -1].softmax(-1)
                rows = torch.cat([rows, torch.multinomial(chances, 1)], 1)
        drawn = [row[len(state) :] for row in rows.tolist()]
        return [
            (self.tokenizer.decode(ids[: ids.index(END)]), "stop")
            if END in ids
            else (self.tokenizer.decode(ids), "length")
            for ids in drawn
        ]


def make_word_tokenizer() -> Any:
    """A tokenizer of the usual kind, which joins letters to words and spaces to words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|user|>", "<|end|>"],
    )
    tokenizer.train_from_iterator(["hello world", "the list of the held words"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>"],
        chat_template="{% for m in messages %}<|user|>{{ m['content'] }}\n{% endfor %}",
        clean_up_tokenization_spaces=False,
    )


def _json(value: Any) -> Response:
    # As some servers do: `-Infinity`, which is no JSON.
    return Response(json.dumps(value), media_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "BadRequestError", "code": status}}
    return JSONResponse(body, status, headers)
