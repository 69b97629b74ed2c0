"""Small tokenizers of the kinds that people bring, and a model of random weights for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TEXTS = [
    "the cat sat on the mat and the dog sat by the moon",
    "one two three four five six seven",
    "old price 30 new price 40",
]
TURNS = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|done|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
STARTED = "{{ bos_token }}" + TURNS
REFUSING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system turns here') }}{% endif %}[{{ m['content'] }}]{% endfor %}"
)
TRIMMING = "{% for m in messages %}<|turn|>{{ m['content'] | trim }} <|done|>{% endfor %}"


def byte_level(
    *,
    names: tuple[str, ...] = ("<|stop|>", "<|turn|>", "<|done|>"),
    template: str = TURNS,
    normalizer: Any = None,
    prefix_space: bool = False,
    bos: str | None = None,
    pad: str | None = None,
) -> Any:
    """Bytes and merges, as GPT-2, Qwen and Llama 3 have them; the first name alone has a role."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*names, *([bos] if bos else []), *([pad] if pad else [])],
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return _of(tokenizer, template, eos_token=names[0], bos_token=bos, pad_token=pad)


def word_pieces(kind: str) -> Any:
    """Tokenizers that mark spaces at the beginning, and one whose words may be anything."""
    special = ["<unk>", "<s>", "</s>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.add_special_tokens(
        [AddedToken("<|turn|>", rstrip=True), AddedToken("<|done|>", lstrip=True)]
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return _of(tokenizer, STARTED, eos_token="</s>", bos_token="<s>", pad_token=None)


def _of(tokenizer: Any, template: str, **names: str | None) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **{name: word for name, word in names.items() if word},
    )


def saved(tokenizer: Any, folder: Path, *, ends: list[int] | None = None) -> Path:
    """A folder with a tokenizer, and with ends in `generation_config.json` where given."""
    tokenizer.save_pretrained(folder)
    if ends is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def loaded(tokenizer: Any, folder: Path, **options: Any) -> Any:
    """The same, read back as a program does."""
    return AutoTokenizer.from_pretrained(saved(tokenizer, folder, **options))


def model_folder(tokenizer: Any, folder: Path, *, ends: list[int] | None = None) -> Path:
    """A folder with a model of random weights too."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=1 + max(tokenizer.get_vocab().values()),
            hidden_size=32,
            num_hidden_layers=2,
            intermediate_size=64,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return saved(tokenizer, folder, ends=ends)
