"""Claims about the kernel and about scoring on a GPU, against the way of a CPU."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_services.experts.engine.head import RUN, _statistics
from preceptor_services.experts.engine.models import scorer_of
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.score import score

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("num_columns", "num_real"),
    [(RUN, RUN), (4096, 4000), (3 * 4096 + 5 * RUN, 3 * 4096 + 4 * RUN + 17), (5 * RUN, RUN)],
)
def test_the_kernel_says_what_eager_torch_says(
    dtype: torch.dtype, num_columns: int, num_real: int
) -> None:
    from preceptor_services.experts.engine.block_kernel import block_statistics

    wide = 4 * torch.randn(7, num_columns + RUN, generator=torch.Generator().manual_seed(0))
    block_RC = wide.to(dtype)[:, :num_columns]  # rows lie further apart than they are long

    normalisers, maxima = block_statistics(block_RC.cuda(), num_real, run=RUN)

    normaliser_R1, maxima_RM = _statistics(block_RC, num_real)
    found_R1 = normalisers.logsumexp(-1, keepdim=True).cpu()
    torch.testing.assert_close(found_R1, normaliser_R1, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maxima.cpu(), maxima_RM, atol=0, rtol=0)


def test_a_gpu_scores_as_a_cpu_does(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 261, 40).astype(np.int32)
    batch = [
        Prefill(
            context_ids=prompt,
            response_ids=rng.integers(0, 261, 5 + n).astype(np.int32),
            positions_P=np.arange(5 + n),
            top_k=16,
        )
        for n in range(4)
    ]

    on_cpu, on_gpu = (
        score(scorer_of(m, 261), batch, vocab_size=261)
        for m in (model, copy.deepcopy(model).cuda())
    )

    for a, b in zip(on_cpu, on_gpu, strict=True):
        np.testing.assert_allclose(a.logprobs_PK, b.logprobs_PK, atol=1e-4)
