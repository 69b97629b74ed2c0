"""Makes the student: `python -m preceptor_trainer.student.pretrain --out DIR`.

First clean text, in two cycles of the learning rate, so that the model learns to find programs.
Then a shorter run in which many of the plain examples have a wrong answer, so that it becomes worse
without feedback only. The loss is on the response, and with a smaller weight on the outputs inside
the prompt, which train the inference of a function from earlier pairs.

Hidden matrices are trained by Muon (Jordan et al. 2024), the rest by AdamW, in float32
master weights with bfloat16 products. The same seed, steps and machine give the same weights.
"""

# pyright: reportUnknownMemberType=false
# (torch and transformers have incomplete types)
from __future__ import annotations

import logging
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, Qwen3ForCausalLM

from preceptor_clients.sdk.chat_encoding import ChatEncoder
from preceptor_trainer.student.architecture import (
    NUM_LAYERS,
    make_model,
    make_tokenizer,
    prompt_ids,
)
from preceptor_trainer.student.corpus import (
    FEATURE_SHARES,
    KIND_SHARES,
    Example,
    Kind,
    make_example,
)
from preceptor_trainer.tasks.programming_by_example.problems import stream_problems

log = logging.getLogger(__name__)

PROMPT_OUTPUT_WEIGHT = 0.4
BUCKET_BATCHES = 8  # batches sorted by length together: little padding, still mixed kinds


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One run over the corpus."""

    steps: int
    """Optimiser steps in all."""
    learning_rate: float
    """Peak rate; constant, then linear to a twentieth over the last `decay_share`."""
    decay_share: float
    """Part of the steps over which the rate falls."""
    wrong_share: float
    """Share of plain examples with a wrong answer."""
    singles_until: float
    """Part of the steps over which programs of one feature give way to the usual mixture."""
    kind_shares: Mapping[Kind, float] = field(default_factory=lambda: KIND_SHARES)
    """What stands in the prompts."""
    feature_shares: Mapping[int, float] = field(default_factory=lambda: FEATURE_SHARES)
    """Shares of programs of one, two and three features."""
    batch_size: int = 64
    """Examples a step."""
    warmup_steps: int = 50
    """Warm-up steps, with a rate that rises linearly from zero."""
    seed: int = 0
    """Seed of initial weights and text."""
    compiled: bool = False
    """Whether to compile fused kernels: a third faster after a start of one minute; needs a C++
    compiler."""
    threads: int = 2
    """Threads of torch; a run is repeatable only with the same number."""
    checkpoint_every: int = 200
    """Steps between saved models."""

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        left = (self.steps - step) / (self.steps * self.decay_share)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps, max(left, 0.05))

    def feature_shares_at(self, step: int) -> Mapping[int, float]:
        """Shares of programs of one, two and three features at a step."""
        if self.singles_until == 0:
            return self.feature_shares
        single = max(0.0, 0.6 * (1 - step / (self.steps * self.singles_until)))
        usual = {n: (1 - single) * share for n, share in self.feature_shares.items()}
        return usual | {1: usual[1] + single}


CLEAN = PretrainConfig(
    steps=2400, learning_rate=2.5e-3, decay_share=0.65, wrong_share=0.0, singles_until=0.12
)
"""Learns to find programs."""
CLEAN_AGAIN = PretrainConfig(
    steps=3600,
    learning_rate=2e-3,
    decay_share=0.85,
    wrong_share=0.0,
    singles_until=0.0,
    seed=1,
    compiled=True,
)
"""A second learning-rate cycle on new text, since the loss still fell at the end of the first."""
IMPERFECT = PretrainConfig(
    steps=400, learning_rate=8e-4, decay_share=1.0, wrong_share=0.6, singles_until=0.0
)
"""Trains wrong answers without feedback."""


@dataclass(frozen=True)
class Encoded:
    """An example as ids `[T]` with the loss weight of predicting each."""

    kind: str
    ids: list[int]
    weights: list[float]


def encode(example: Example, tokenizer: Any) -> Encoded:
    """Renders an example as the self-teacher does, and appends the response and the end token."""
    prompt = prompt_ids(tokenizer, example.messages)
    response = ChatEncoder(tokenizer).text_ids(example.response)
    response.append(tokenizer.eos_token_id)
    return Encoded(example.kind, prompt + response, _prompt_weights(prompt) + [1.0] * len(response))


def _prompt_weights(ids: list[int]) -> list[float]:
    """A small weight on the tokens after an arrow, up to the line's end or the word `not`."""
    weights: list[float] = []
    inside = False
    for index, token in enumerate(ids):
        if token in (ord("\n"), ord(" ")) or token > 255:
            inside = False
        weights.append(PROMPT_OUTPUT_WEIGHT if inside else 0.0)
        inside = inside or (token == ord(">") and ids[index - 1] == ord("-"))
    return weights


def stream_batches(config: PretrainConfig, tokenizer: Any) -> Iterator[list[Encoded]]:
    """Yields one batch a step, of similar lengths."""
    rng = random.Random(f"pretrain:{config.seed}")
    for start in range(0, config.steps, BUCKET_BATCHES):
        problems = stream_problems("train", rng, config.feature_shares_at(start))
        pool = [
            encode(
                make_example(next(problems), rng, config.wrong_share, config.kind_shares), tokenizer
            )
            for _ in range(BUCKET_BATCHES * config.batch_size)
        ]
        pool.sort(key=lambda encoded: len(encoded.ids))
        size = config.batch_size
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches[: config.steps - start]


def batch_losses(model: Any, batch: list[Encoded], pad_id: int) -> tuple[Tensor, Tensor]:
    """Losses `[B, T-1]` of each next token, and their weights, 0 at padding."""
    # few different lengths, because the CPU's matrix library compiles a kernel for each shape
    longest = -(-max(len(encoded.ids) for encoded in batch) // 16) * 16 + 1
    ids = torch.full((len(batch), longest), pad_id)
    weights = torch.zeros(len(batch), longest)
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.ids)] = torch.tensor(encoded.ids)
        weights[row, : len(encoded.ids)] = torch.tensor(encoded.weights)
    # right padding and a causal mask: real tokens do not attend to the padding
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(batch), -1), weights[:, 1:]


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Plain causal attention by batched products.

    Four times as fast, forwards and backwards, as torch's fused CPU kernel at 112 positions in
    bfloat16. Takes no mask: batches are padded on the right.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1).flatten(0, 1) for t in (key, value))
    length = query.shape[2]
    future = torch.full((length, length), float("-inf"), dtype=value.dtype).triu(1)
    scores = torch.baddbmm(
        future, (query * scaling).flatten(0, 1).to(value.dtype), key.to(value.dtype).mT
    )
    mixed = torch.bmm(scores.softmax(-1), value).view(query.shape)
    return mixed.transpose(1, 2).contiguous(), None


def make_optimizers(model: Qwen3ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding and norms."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(hidden, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def save_student(model: Qwen3ForCausalLM, tokenizer: Any, folder: Path) -> None:
    """Writes the model in bfloat16 with its tokenizer; the model itself stays in float32."""
    copy: Any = Qwen3ForCausalLM(model.config)
    copy.to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o644)  # safetensors makes files that only the owner can read


def pretrain(
    config: PretrainConfig, out: Path, start: Callable[[Any], Qwen3ForCausalLM] = make_model
) -> None:
    """Trains a model and writes it to `out`, with intermediate models in `out/checkpoints`.

    It starts from the model that `start` makes, in float32, with new optimiser states.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    tokenizer = make_tokenizer()
    model = start(tokenizer)
    AttentionInterface.register("causal", causal_attention)
    model.set_attn_implementation("causal")
    forward: Any = torch.compile(model, dynamic=True) if config.compiled else model
    optimizers = make_optimizers(model, config.learning_rate)
    progress = Progress()
    for step, batch in enumerate(stream_batches(config, tokenizer)):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = config.rate_at(step)
        losses, weights = batch_losses(forward, batch, tokenizer.pad_token_id)
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.add(batch, losses.detach(), weights)
        if (step + 1) % 25 == 0:
            log.info("step %d %s", step + 1, progress.take())
        if (step + 1) % config.checkpoint_every == 0:
            save_student(model, tokenizer, out / "checkpoints" / f"{step + 1:05d}")
    save_student(model, tokenizer, out)


def made_before(folder: Path, tokenizer: Any, num_layers: int = NUM_LAYERS) -> Qwen3ForCausalLM:
    """The model in `folder`, in float32."""
    model = make_model(tokenizer, num_layers)
    model.load_state_dict(Qwen3ForCausalLM.from_pretrained(folder).state_dict())
    return model


class Progress:
    """Response loss of each kind of example, and tokens a second, since the last look."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._num_tokens, self._since = 0, time.monotonic()

    def add(self, batch: list[Encoded], losses: Tensor, weights: Tensor) -> None:
        is_response = weights == 1.0
        per_row = (losses * is_response).sum(1) / is_response.sum(1)
        means: list[float] = cast(Any, per_row).tolist()
        for encoded, loss in zip(batch, means, strict=True):
            self._sums[encoded.kind].append(loss)
        self._num_tokens += sum(len(encoded.ids) for encoded in batch)

    def take(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._since
        means = {kind: round(sum(v) / len(v), 4) for kind, v in sorted(self._sums.items())}
        speed = {"tokens_per_s": round(self._num_tokens / seconds)}
        self._sums.clear()
        self._num_tokens, self._since = 0, time.monotonic()
        return means | speed


def main(
    out: Annotated[Path, typer.Option(help="Folder for the student.")],
    work: Annotated[Path, typer.Option(help="Folder for intermediate models.")] = Path(
        "runs/student"
    ),
    clean_steps: Annotated[int, typer.Option(help="Steps on clean text.")] = CLEAN.steps,
    clean_again_steps: Annotated[
        int, typer.Option(help="Steps of a second cycle on clean text.")
    ] = CLEAN_AGAIN.steps,
    imperfect_steps: Annotated[
        int, typer.Option(help="Steps with wrong answers in plain examples.")
    ] = IMPERFECT.steps,
    wrong_share: Annotated[
        float, typer.Option(help="Share of plain examples with a wrong answer in these steps.")
    ] = IMPERFECT.wrong_share,
    seed: Annotated[int, typer.Option(help="Seed of weights and text.")] = CLEAN.seed,
) -> None:
    """Makes the student in three runs; finished runs in `work` are reused."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    runs = {
        "clean": replace(CLEAN, steps=clean_steps),
        "clean_again": replace(CLEAN_AGAIN, steps=clean_again_steps),
        "imperfect": replace(IMPERFECT, steps=imperfect_steps, wrong_share=wrong_share),
    }
    start: Callable[[Any], Qwen3ForCausalLM] = make_model
    for name, config in runs.items():
        folder = work / name
        if name == "imperfect" or not (folder / "model.safetensors").exists():
            pretrain(replace(config, seed=config.seed + seed), folder, start)
        start = partial(made_before, folder)
    out.mkdir(parents=True, exist_ok=True)
    for path in filter(Path.is_file, (work / "imperfect").iterdir()):
        shutil.copy(path, out)


if __name__ == "__main__":
    typer.run(main)
