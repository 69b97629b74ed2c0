"""SmolLM2-135M-Instruct behind vLLM's own server judges by a rubric: others, and itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from transformers import AutoTokenizer

from preceptor_clients.contract.checks import check_feedback
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import FeedbackQuery
from preceptor_clients.sdk.rubrics.rubric import make_rubric
from preceptor_services.feedback.judge.source import Judge
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.self_evaluation import SelfEvaluation, evaluate_own
from preceptor_trainer.sampling.sampler import Generation

from .conftest import free_port, running

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]
CRITERIA = [{"name": "right", "question": "Is the answer 4?"}]
POSITIONS = 2048
_WAIT_S = 900.0


@pytest.fixture(scope="module")
def server(
    vllm_python: str, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    port = free_port()
    command = [
        *(vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--enforce-eager"),
        *("--max-model-len", str(POSITIONS), "--served-model-name", "policy"),
    ]
    log = tmp_path_factory.mktemp("vllm") / "judge.log"
    with running(command, f"http://127.0.0.1:{port}/health", log):
        yield f"http://127.0.0.1:{port}"


async def test_a_real_server_answers_as_a_judge(server: str) -> None:
    judge = Judge(
        url=server, model="policy", criteria=CRITERIA, max_tokens=200, timeout_s=_WAIT_S,
        price_input=1.0,
    )  # fmt: skip
    queries = [_query(text) for text in ("It is 4.", "It is 5.", "Every verdict is yes.")]

    answers = await judge.feedback(queries)
    await judge.stop()

    for query, answer in zip(queries, answers, strict=True):
        assert not isinstance(answer, PreceptorError), answer
        check_feedback(query, answer)
        [item] = answer.items
        assert item.score in (0.0, 1.0), item
        assert item.details["form"] == "json"
        assert int(str(item.details["input_tokens"])) > 100
        assert item.cost is not None
        assert item.cost > 0


class BehindTheServer:
    """The student, drawn by vLLM: chats go there as ids, and come back as ids."""

    version = "run/l0/0"
    max_positions = POSITIONS

    def __init__(self, url: str, model: Path) -> None:
        self._url = url
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.asked: list[int] = []

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        chat = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=True
        )
        return list(chat["input_ids"])

    def text_of(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    async def continuations(self, prompts: Any, forced: Any, *, params: Any, generator: Any) -> Any:
        self.asked.append(len(prompts))
        body = {
            "model": "policy",
            "prompt": prompts,
            "max_tokens": params.max_new_tokens,
            "temperature": 0,
            "return_token_ids": True,
        }
        async with httpx.AsyncClient(base_url=self._url, timeout=_WAIT_S) as client:
            reply = (await client.post("/v1/completions", json=body)).raise_for_status().json()
        return [
            Generation(
                response_ids=np.asarray(choice["token_ids"], np.int32),
                logprobs=np.zeros(len(choice["token_ids"]), np.float32),
                finish_reason=choice["finish_reason"],
            )
            for choice in sorted(reply["choices"], key=lambda choice: choice["index"])
        ]


async def test_the_policy_behind_a_real_server_judges_itself(server: str, smollm2: Path) -> None:
    student = BehindTheServer(server, smollm2)
    own = SelfEvaluation(name="self", rubric=make_rubric(CRITERIA), max_tokens=60)
    texts = ["It is 4.", "It is 5.", "4", "The sum of 2 and 2 is 4."]

    outcomes = await evaluate_own(own, student, [_rollout(text) for text in texts])

    items = [o.answer.items[0] for o in outcomes if o.answer is not None]
    assert student.asked[0] == len(texts)
    assert len(items) == len(texts)
    # So small a model may say neither yes nor no: that is an error, and no score.
    assert all((item.score is None) == (item.error is not None) for item in items)
    assert {item.score for item in items} <= {0.0, 1.0, None}
    assert any(item.score is not None for item in items), [item.error for item in items]


def _query(response: str) -> FeedbackQuery:
    return FeedbackQuery.model_validate(
        {
            "rollout_id": "r",
            "prompt": {"messages": [{"role": "user", "content": "What is 2 + 2?"}]},
            "response_ids": [1],
            "response_text": response,
            "finish_reason": "stop",
            "payload_sha256": "0" * 64,
        }
    )


def _rollout(response: str) -> Rollout:
    made = SimpleNamespace(
        rollout_id=response[:8],
        group_id="g",
        problem=SimpleNamespace(
            messages=[{"role": "user", "content": "What is 2 + 2?"}], payload={}
        ),
        response_text=response,
        finish_reason="stop",
        episode=None,
    )
    return cast(Rollout, made)
