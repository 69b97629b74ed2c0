"""The student as files: loading it, and publishing its weights as immutable versions.

A version is `{policy}/{lineage}/{step}`: the weights that begin step `step`. Its files are written
under a temporary name and renamed, so that a reader never sees an incomplete file. An existing
version is never written again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from preceptor_clients.contract.control_tokens import end_ids, pad_id
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.kit.files import whole_folder
from preceptor_clients.sdk.adapters import ADAPTER_FILES, FIRST_ADAPTER
from preceptor_clients.sdk.chat_encoding import ChatEncoder
from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE
from preceptor_trainer.kit.disk import disk_errors
from preceptor_trainer.kit.placement import CPU, Placement
from preceptor_trainer.learner.adapter_files import read_weights, write_adapter
from preceptor_trainer.learner.lora import AdapterFiles
from preceptor_trainer.learner.model_folder import write_beside_weights
from preceptor_trainer.model.packed import packed_trunk_of
from preceptor_trainer.model.trunk import trunk_of


class Policy:
    """Model, tokenizer and vocabulary fingerprint of one student, with weights in float32.

    A response ends with any of `end_ids`; `pad_id` fills what is masked.
    """

    def __init__(
        self,
        folder: Path,
        place: Placement = CPU,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        packing: bool = False,
    ) -> None:
        """Loads the student.

        Args:
            folder: In Hugging Face format.
            place: Device and data type of the computation.
            chat_template_kwargs: Further variables of the chat template.
            packing: Whether its trunk computes rows without padding.
        """
        disable_progress_bar()  # it would overwrite the live progress
        self.folder = folder
        self.place = place
        self.tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(folder)
        self.model = self._load(torch.float32)
        self.trunk = packed_trunk_of(self.model) if packing else trunk_of(self.model)
        self.vocab_fingerprint = tokenizer_fingerprint(self.tokenizer)
        self.end_ids = end_ids(self.tokenizer)
        self.pad_id = pad_id(self.tokenizer)
        self._chats = ChatEncoder(self.tokenizer, chat_template_kwargs)
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())

    @property
    def max_positions(self) -> int | None:
        """The model's most tokens of prompt and response; None where it names no limit."""
        config: Any = cast(Any, self.model).config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def new_model(self) -> nn.Module:
        """A new copy of the folder's model, in the data type of the computation."""
        return self._load(self.place.dtype)

    def _load(self, dtype: torch.dtype) -> nn.Module:
        model = cast(Any, AutoModelForCausalLM).from_pretrained(self.folder, dtype=dtype)
        return cast(nn.Module, model.to(self.place.device).eval())

    def encode(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a chat, which the student continues."""
        return self._chats.chat_ids(messages)

    def reply_ids(
        self, messages: Sequence[dict[str, str]], replies: Sequence[dict[str, str]]
    ) -> list[int]:
        """The ids between a turn of the student, after `messages`, and its next one."""
        ends: list[str] = self.tokenizer.convert_ids_to_tokens(sorted(self.end_ids))
        return self._chats.reply_ids(messages, replies, ends)

    def response_ids(self, text: str) -> list[int]:
        """The ids of a text as a complete response, with the tokenizer's end token.

        Raises:
            ValueError: the tokenizer has no end token.
        """
        if not self.end_ids:
            raise ValueError(f"{self.folder}: neither tokenizer nor configuration has an end token")
        named: int | None = self.tokenizer.eos_token_id
        end = min(self.end_ids) if named is None else named
        return [*self._chats.text_ids(text), end]

    def decode(self, ids: Sequence[int]) -> str:
        """Response ids as text, without special tokens."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def decode_token(self, ids: list[int]) -> str:
        """Ids as text, special tokens by their names."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class WeightFolder:
    """The folder of a run's versions: `ROOT/{policy}/{lineage}/{step}`.

    Each is a folder in Hugging Face format, which `from_pretrained` and vLLM load; or it holds an
    adapter of another one (`adapter_files.py`). Versions that no checkpoint names may be elsewhere,
    such as in shared memory: under `passing`, by the same names.
    """

    def __init__(
        self,
        root: Path,
        policy: str,
        vocab_fingerprint: str,
        *,
        source: Path | None = None,
        config: Any = None,
        scratch: Path | None = None,
    ) -> None:
        """Writes under `root`, and under `scratch`.

        Args:
            root: The folder of all versions.
            policy: The first part of their names.
            vocab_fingerprint: The policy's vocabulary.
            source: The student's folder, of which each version has tokenizer and templates; where
                absent, versions hold weights alone.
            config: The trained model's configuration, whose data type is that of the weights.
            scratch: Has a folder of this root's own for versions without a checkpoint.
        """
        self.root = root.resolve()
        self.passing = None if scratch is None else passing_folder(scratch, self.root)
        self.policy = policy
        self.vocab_fingerprint = vocab_fingerprint
        self._source = source
        self._config = config

    def version(self, lineage: str, step: int) -> str:
        """The name of a version."""
        return f"{self.policy}/{lineage}/{step}"

    def write(
        self,
        weights: Mapping[str, Tensor],
        version: str,
        *,
        parent: str | None,
        checkpoint: bool,
        passes: bool = True,
        first_adapter: AdapterFiles | None = None,
    ) -> WeightManifest:
        """Writes the weights of `version` unless they exist; returns their manifest.

        Args:
            weights: All of them by name.
            version: Its name.
            parent: The version before.
            checkpoint: Whether a checkpoint names it.
            passes: Whether it may be under `passing` if none does.
            first_adapter: The adapter that begins on these weights, written beside them.
        """
        folder = self._place(version, passes=passes and not checkpoint)
        if not folder.exists():
            # A version without a checkpoint is not needed after a power failure.
            with disk_errors(folder), whole_folder(folder, synced=checkpoint) as partial:
                save_file(dict(weights), partial / WEIGHTS_FILE, metadata={"format": "pt"})
                if self._source is not None:
                    write_beside_weights(self._config, self._source, partial)
                if first_adapter is not None:
                    (partial / FIRST_ADAPTER).mkdir()
                    write_adapter(partial / FIRST_ADAPTER, first_adapter, version)
        return self._manifest(folder, version, [WEIGHTS_FILE], parent, checkpoint=checkpoint)

    def write_adapter(
        self,
        adapter: AdapterFiles,
        version: str,
        *,
        base: str,
        parent: str | None,
        checkpoint: bool,
        passes: bool = True,
    ) -> WeightManifest:
        """Writes `version` as an adapter of the whole version `base`, unless it exists."""
        folder = self._place(version, passes=passes and not checkpoint)
        if not folder.exists():
            with disk_errors(folder), whole_folder(folder, synced=checkpoint) as partial:
                write_adapter(partial, adapter, base)
        return self._manifest(
            folder, version, sorted(ADAPTER_FILES), parent, checkpoint=checkpoint, base=base
        )

    def _place(self, version: str, *, passes: bool) -> Path:
        return (self.passing if passes and self.passing is not None else self.root) / version

    def _manifest(
        self,
        folder: Path,
        version: str,
        names: Sequence[str],
        parent: str | None,
        *,
        checkpoint: bool,
        base: str | None = None,
    ) -> WeightManifest:
        return WeightManifest(
            version=version,
            parent=parent,
            uri=folder.as_uri(),
            files={name: _sha256(folder / name) for name in names},
            base=base,
            vocab_fingerprint=self.vocab_fingerprint,
            checkpoint=checkpoint,
            num_bytes=sum((folder / name).stat().st_size for name in names),
        )

    def read(self, version: str) -> dict[str, Tensor]:
        """All weights of `version`, which is under `root`."""
        return read_weights(self.root / version)

    def keep(self, version: str) -> None:
        """Copies a version to `root`, unless it is there."""
        kept = self.root / version
        if self.passing is not None and not kept.exists():
            with disk_errors(kept), whole_folder(kept) as partial:
                shutil.copytree(self.passing / version, partial, dirs_exist_ok=True)

    def remove_passing(self) -> None:
        """Removes all versions that are not under `root`."""
        # Not every error: files of another user that stay would be taken for later versions.
        if self.passing is not None and self.passing.exists():
            shutil.rmtree(self.passing)


def passing_folder(scratch: Path, root: Path) -> Path:
    """Where the versions of one `root` pass through `scratch`, which several runs may share."""
    digest = hashlib.sha256(str(root.resolve()).encode()).hexdigest()
    return scratch.resolve() / f"preceptor-{digest[:16]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
