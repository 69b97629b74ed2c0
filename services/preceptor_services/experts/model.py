"""A Hugging Face folder as a scoring model whose weights can be replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall
from preceptor_clients.sdk.chat_encoding import ChatEncoder

Precision = Literal["float32", "bfloat16"]
DTYPES: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def device_of(name: str) -> torch.device:
    """The torch device of this name; `auto` is the GPU where torch sees one.

    Raises:
        ValueError: torch does not know the name, or sees no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is not `auto` or a device of torch") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name!r}, but torch sees no GPU; use `auto` or `cpu`")
    return device


class ScoringModel:
    """Architecture, tokenizer and initial weights of one folder, on one device.

    `initial` is a float32 copy of the weights, where they must be restored later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        dtype: Precision,
        keep_initial: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        disable_progress_bar()
        self.tokenizer: Any = cast("Any", AutoTokenizer).from_pretrained(
            folder, local_files_only=True
        )
        loaded = cast("Any", AutoModelForCausalLM).from_pretrained(
            folder, dtype=torch.float32 if keep_initial else DTYPES[dtype], local_files_only=True
        )
        self.initial = parameters_of(loaded) if keep_initial else {}
        self.module: Any = loaded.to(device=device, dtype=DTYPES[dtype]).eval()
        self.vocab_fingerprint = tokenizer_fingerprint(self.tokenizer)
        self._chats = ChatEncoder(self.tokenizer, chat_template_kwargs)
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())

    @property
    def decoder_config(self) -> Any:
        """The configuration of the decoder; a model of several kinds of input has one for text."""
        return self.module.config.get_text_config()

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids of a chat, to be continued by the assistant.

        Raises:
            Invalid: the chat template does not take the messages.
        """
        return self._chats.chat_ids(messages)

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        """Ids of a text or chat. It runs in a thread, because a long text may take a second.

        Raises:
            Invalid: the chat template refuses the messages, or there is none.
        """
        return TokenIds(ids=await asyncio.to_thread(self._ids, call))

    def _ids(self, call: TokenizeCall) -> np.ndarray:
        if call.prompt is not None:
            # A client that renders chats itself writes control tokens on purpose.
            ids = self._chats.written_ids(call.prompt, add_special_tokens=call.add_special_tokens)
        else:
            ids = self._chats.chat_ids(
                [message.model_dump() for message in call.messages],
                add_generation_prompt=call.add_generation_prompt,
                add_special_tokens=call.add_special_tokens,
                field="messages",
            )
        return np.array(ids, np.int32)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies float32 tensors over the weights.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape; then nothing was copied.
        """
        own = self._own(tensors)
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(own[name])

    def _own(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        shapes = {name: p.shape for name, p in self.module.named_parameters()}
        aliases = {n for n, _ in self.module.named_parameters(remove_duplicate=False)}
        missing = sorted(shapes.keys() - tensors.keys())
        unknown = sorted(tensors.keys() - aliases)
        if missing or unknown:
            raise ValueError(f"weights: missing {missing[:3]}, unknown {unknown[:3]}")
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(
                    f"weights: {name} has shape {tuple(tensors[name].shape)}, not {tuple(shape)}"
                )
        return tensors


def parameters_of(module: Any) -> dict[str, Tensor]:
    """Every parameter once, as float32 copies on the CPU."""
    return {
        name: p.detach().to(device="cpu", dtype=torch.float32, copy=True)
        for name, p in module.named_parameters()
    }
