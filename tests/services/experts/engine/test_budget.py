"""Claims about memory: what a budget allows is what scoring takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from preceptor_services.experts.engine.budget import (
    Budget,
    Memory,
    budget_of,
    context_of,
    fitting_tokens,
)

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
budget = budget_of(memory_mb, config, element_bytes=2)

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
        budget_of(memory_mb, config, element_bytes=2)
        for memory_mb, config in ((16, small), (64, small), (64, large))
    ]

    assert budgets[0].max_tokens < budgets[1].max_tokens
    assert budgets[0].max_logits < budgets[1].max_logits
    assert budgets[2].max_tokens < budgets[1].max_tokens


def decoder(hidden_size: int, positions: int = 4096) -> SimpleNamespace:
    return SimpleNamespace(
        hidden_size=hidden_size, num_attention_heads=4, max_position_embeddings=positions
    )


QWEN3_0_6B = SimpleNamespace(
    hidden_size=1024,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=3072,
    max_position_embeddings=40_960,
)


def test_40960_positions_start_without_any_setting() -> None:
    memory = Memory(declared=None, most=16 * 1024)

    assert context_of(memory, QWEN3_0_6B, element_bytes=4, max_context=None) == 40_960


def test_a_small_machine_lowers_the_context_and_says_how_to_decide(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Memory(declared=None, most=1024)

    found = context_of(memory, QWEN3_0_6B, element_bytes=4, max_context=None)

    assert found == fitting_tokens(1024, QWEN3_0_6B, 4) < 40_960
    assert "set max_context and memory_mb" in caplog.text


@pytest.mark.parametrize(("declared", "max_context"), [(1, None), (1, 4096), (None, 4096)], ids=str)
def test_what_is_asked_for_and_does_not_fit_is_refused_with_two_numbers_that_work(
    declared: int | None, max_context: int | None
) -> None:
    memory, config = Memory(declared=declared, most=2), decoder(hidden_size=512)

    with pytest.raises(ValueError, match=r"^memory_mb: .* max_context is 4096") as refused:
        context_of(memory, config, element_bytes=4, max_context=max_context)

    found = re.search(r"set memory_mb to (\d+), or max_context to (\d+)", str(refused.value))
    assert found
    enough_mb, enough_tokens = map(int, found.groups())
    enough = Memory(declared=enough_mb, most=2)
    assert context_of(enough, config, element_bytes=4, max_context=4096) == 4096
    assert context_of(memory, config, element_bytes=4, max_context=enough_tokens) == enough_tokens


@pytest.mark.parametrize("field", ["max_tokens", "max_logits", "max_entries"])
def test_a_budget_of_nothing_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: 0 is below 1"):
        Budget(**{field: 0})
