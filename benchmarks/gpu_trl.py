"""One update of TRL's SDPO trainer on given responses, for `gpu.py`. Needs TRL and accelerate.

Everything but the sampling is TRL's, with its defaults and passes in bfloat16 over float32 weights
on a GPU: rewards, the teacher's prompt with a sibling's right answer, the teacher's pass, one
response a micro-batch, AdamW, the teacher's moving average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from real_model_trl import Clock
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

PROMPT = "t1 t2 t3 t4"


class GivenResponses(SDPOTrainer):
    """The trainer with responses in the place of its sampling."""

    responses: Sequence[list[int]] = ()

    def _generate(self, prompt_ids: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        return prompt_ids, list(self.responses)


def seconds_of_updates(
    model: Path, responses: Sequence[list[int]], device: torch.device, folder: Path, steps: int
) -> list[float]:
    """Seconds of each update.

    Args:
        model: Folder of the model.
        responses: Token ids, all to one prompt; every second one counts as right.
        device: Where it computes.
        folder: For what TRL writes.
        steps: Updates.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
    tokenizer.pad_token, tokenizer.eos_token = "t0", "t1"
    clock = Clock(None, str)
    trainer = GivenResponses(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        args=SDPOConfig(
            output_dir=str(folder),
            max_steps=steps,
            learning_rate=1e-9,
            lr_scheduler_type="constant",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=len(responses),
            num_generations=len(responses),
            max_completion_length=len(responses[0]),
            use_cpu=device.type == "cpu",
            bf16=device.type != "cpu",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": PROMPT}]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.responses = responses
    trainer.train()
    return clock.seconds
