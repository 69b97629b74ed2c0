"""What a folder of trained weights has beside them, so that other programs load it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

_BESIDE_WEIGHTS: Final = (
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.jinja", "chat_template*", "LICENSE*"),
)
"""Files of a student that its trained versions have too, as they are."""


def write_beside_weights(config: Any, source: Path, folder: Path) -> None:
    """Writes configuration, tokenizer, chat template and generation settings into `folder`.

    `config` is the trained model's, since its data type is that of the written weights.
    """
    config.save_pretrained(folder)
    for pattern in _BESIDE_WEIGHTS:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
