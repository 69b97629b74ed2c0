"""What `preceptor try` says of chat templates."""

from __future__ import annotations

import pytest

from preceptor_clients.contract.control_tokens import end_ids
from preceptor_trainer.trial.template import rendered_findings, start_findings, template_findings

from ...field.small_models import TURNS, byte_level

FOREIGN = TURNS.replace("<|turn|>", "<|im_start|>").replace("<|done|>", "<|im_end|>")
CLOSED = TURNS.partition("{% if add_generation_prompt")[0]


def said(template: str) -> list[str]:
    tokenizer = byte_level(template=template)
    return [f.what for f in template_findings(tokenizer, {}, end_ids(tokenizer))]


def test_a_models_own_template_is_in_order() -> None:
    assert said(TURNS) == []


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (FOREIGN, "<|im_end|>, <|im_start|>, which this tokenizer does not know as tokens"),
        (CLOSED, "does not open the assistant's turn"),
        (TURNS.replace("{{ m['content'] }}", ""), "leaves the user's text out"),
    ],
)
def test_a_template_that_does_not_fit_is_named(template: str, words: str) -> None:
    assert any(words in what for what in said(template))


def test_an_answer_that_ends_with_no_end_token_is_named() -> None:
    tokenizer = byte_level()

    [finding] = template_findings(tokenizer, {}, {tokenizer.convert_tokens_to_ids("<|stop|>")})

    assert "is not an end token" in finding.what
    assert "generation_config.json" in finding.remedy


def test_two_start_tokens_are_counted() -> None:
    tokenizer = byte_level(bos="<|begin|>")
    start = tokenizer.bos_token_id

    [finding] = start_findings(tokenizer, [[start, start, 5], [start, 5]])

    assert "1 prompt of 2" in finding.what
    assert start_findings(tokenizer, [[start, 5]]) == []


def test_a_row_that_was_rendered_before_is_a_mistake_and_one_that_quotes_a_token_is_not() -> None:
    rendered = [{"role": "user", "content": "<|turn|>user\nWhat is 2+2?<|done|>"}]
    quoting = [{"role": "user", "content": "What does <|turn|> mean?"}]

    assert len(rendered_findings(["<|turn|>", "<|done|>"], [rendered])) == 1
    assert rendered_findings(["<|turn|>", "<|done|>"], [quoting]) == []
