"""The student of a file: its folder, and how many tokens a prompt of its may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.sdk.chat_encoding import ChatEncoder
from preceptor_trainer.data.hub import fetch_model
from preceptor_trainer.learner.lora import Lora, check_targets
from preceptor_trainer.runfile.schema import RunFile
from preceptor_trainer.student import STUDENT_DIR

CountTokens = Callable[[Sequence[Mapping[str, str]]], int]


def scratch_folder(run_file: RunFile, folder: Path) -> Path | None:
    """The folder of the versions between checkpoints, where a file names one."""
    named = run_file.model.scratch
    return None if named is None else folder / Path(named).expanduser()


def model_folder(path: str | None, folder: Path) -> Path:
    """The folder of a model; one that is named as on the hub is fetched first.

    Args:
        path: Folder or hub name; the shipped student where absent.
        folder: What a relative path is relative to.

    Raises:
        ValueError: there is no such folder, and the hub has no such model or cannot be reached.
    """
    if path is None:
        return STUDENT_DIR
    here = folder / Path(path).expanduser()
    if (here / "config.json").is_file():
        return here.resolve()
    if here.exists():
        raise ValueError(f"{path}: has no config.json, so it is no folder of a Hugging Face model")
    return fetch_model(path)


def prompt_counter(model: Path, chat_template_kwargs: Mapping[str, Any]) -> CountTokens:
    """Counts the tokens of a chat as the student reads it."""
    encoder = ChatEncoder(cast("Any", AutoTokenizer).from_pretrained(model), chat_template_kwargs)

    def count(messages: Sequence[Mapping[str, str]]) -> int:
        try:
            return len(encoder.chat_ids(messages))
        except PreceptorError as error:
            raise ValueError(f"{model}: {error}") from error

    return count


def longest_prompt(model: Path, max_prompt: int | None, max_tokens: int) -> int:
    """Most tokens of a prompt: as asked, and never more than the model's context leaves.

    Raises:
        ValueError: a response alone fills the context.
    """
    config: Any = cast("Any", AutoConfig).from_pretrained(model).get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return max_prompt or 1 << 30
    if positions <= max_tokens:
        raise ValueError(
            f"rollout.max_tokens: {max_tokens} leaves no prompt in a context of {positions} tokens"
        )
    return min(max_prompt or positions, positions - max_tokens)


def check_ranks(ranks: int, device: str) -> None:
    """Checks that there is a GPU for each rank, where they compute on GPUs.

    Raises:
        ValueError: there are fewer.
    """
    if ranks > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        num_gpus = torch.cuda.device_count()
        if ranks > num_gpus:
            raise ValueError(f"run.ranks: {ranks} ranks need as many GPUs; torch sees {num_gpus}")
    elif ranks > 1 and ":" in device:
        raise ValueError(
            f"model.device: {device!r} is one device, and each of {ranks} ranks has its own; use "
            "`auto`, `cuda` or `cpu`"
        )


def check_adapter(model: Path, lora: Lora) -> None:
    """Checks before anything starts that the model has the layers of an adapter.

    Raises:
        ValueError: it has not; the message names them.
    """
    with torch.device("meta"):
        empty: Any = cast("Any", AutoModelForCausalLM).from_config(
            cast("Any", AutoConfig).from_pretrained(model)
        )
    try:
        check_targets(empty, lora.targets)
    except ValueError as error:
        raise ValueError(f"model.lora.{error}") from None
