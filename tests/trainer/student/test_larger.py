"""The larger model begins as the student with more layers."""

from __future__ import annotations

from pathlib import Path

import torch

from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.student.architecture import make_tokenizer
from preceptor_trainer.student.larger import grown, save_sharpened
from preceptor_trainer.student.pretrain import made_before


def test_a_grown_student_says_what_the_student_says_and_can_learn_in_every_layer() -> None:
    tokenizer = make_tokenizer()
    ids = torch.randint(0, 256, (2, 12), generator=torch.manual_seed(0))

    student, larger = made_before(STUDENT_DIR, tokenizer), grown(STUDENT_DIR, tokenizer)
    logits = larger(input_ids=ids).logits
    logits.logsumexp(-1).sum().backward()

    assert larger.num_parameters() > 1.8 * student.num_parameters()
    torch.testing.assert_close(logits, student(input_ids=ids).logits, atol=1e-4, rtol=0)
    for name, parameter in larger.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_a_sharpened_model_says_at_temperature_one_what_it_said_at_a_quarter(
    tmp_path: Path,
) -> None:
    ids = torch.randint(0, 256, (2, 12), generator=torch.manual_seed(0))

    save_sharpened(STUDENT_DIR, tmp_path, sharpness=4.0)

    tokenizer = make_tokenizer()
    before, after = made_before(STUDENT_DIR, tokenizer), made_before(tmp_path, tokenizer)
    torch.testing.assert_close(
        after(input_ids=ids).logits, 4 * before(input_ids=ids).logits, atol=1e-3, rtol=1e-5
    )
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "tokenizer.json"}
