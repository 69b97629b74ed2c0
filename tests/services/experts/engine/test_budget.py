"""Claims about memory: what a budget allows is what scoring takes."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from preceptor_services.experts.engine.budget import Budget, budget_of

PROBE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from preceptor_services.experts.engine.budget import budget_of
from preceptor_services.experts.engine.models import scorer_of
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.score import score

memory_mb, num_tokens = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
config = Qwen3Config(
    vocab_size=151_936, hidden_size=256, num_hidden_layers=1, intermediate_size=256,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=512,
    tie_word_embeddings=True)
torch.set_default_dtype(torch.bfloat16)
scorer = scorer_of(Qwen3ForCausalLM(config).eval(), 151_936)
budget = budget_of(memory_mb, config, element_bytes=2, max_context=512)

def prefills(count, length):
    rng = np.random.default_rng(count)
    return [Prefill(context_ids=rng.integers(0, 151_936, 4).astype(np.int32),
                    response_ids=rng.integers(0, 151_936, length).astype(np.int32),
                    positions_P=np.arange(length), top_k=64) for _ in range(count)]

def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024

score(scorer, prefills(1, 2), vocab_size=151_936, budget=budget)
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forgets the most that it ever was
score(scorer, prefills(4, num_tokens // 4), vocab_size=151_936, budget=budget)
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_stays_inside_the_budget_at_a_large_vocabulary() -> None:
    budget_mb, num_positions = 96, 256

    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(budget_mb), str(num_positions)],
        check=True,
        stdout=subprocess.PIPE,
    )

    # Their log-probs in float32, as `log_softmax` makes them, would not fit.
    assert num_positions * 151_936 * 4 > budget_mb << 20
    assert json.loads(done.stdout) < budget_mb


def test_more_memory_is_more_work_and_a_larger_model_less() -> None:
    small = decoder(hidden_size=64)
    large = decoder(hidden_size=512)

    budgets = [
        budget_of(memory_mb, config, element_bytes=2, max_context=64)
        for memory_mb, config in ((16, small), (64, small), (64, large))
    ]

    assert budgets[0].max_tokens < budgets[1].max_tokens
    assert budgets[0].max_logits < budgets[1].max_logits
    assert budgets[2].max_tokens < budgets[1].max_tokens


def decoder(hidden_size: int) -> SimpleNamespace:
    return SimpleNamespace(hidden_size=hidden_size, num_attention_heads=4)


def test_a_budget_that_does_not_hold_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_mb: 1 is enough for"):
        budget_of(1, decoder(hidden_size=512), element_bytes=4, max_context=4096)


@pytest.mark.parametrize("field", ["max_tokens", "max_logits", "max_entries"])
def test_a_budget_of_nothing_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: 0 is below 1"):
        Budget(**{field: 0})
