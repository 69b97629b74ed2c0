"""The student's pretraining text."""

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from preceptor_trainer.student.architecture import MAX_POSITIONS, make_tokenizer, prompt_ids
from preceptor_trainer.student.corpus import Example, break_syntax, make_example
from preceptor_trainer.student.pretrain import CLEAN, encode, stream_batches
from preceptor_trainer.tasks.programming_by_example.behaviour import behaviour_of, split_of
from preceptor_trainer.tasks.programming_by_example.problems import (
    Problem,
    evaluate,
    stream_problems,
)

Drawn = list[tuple[Problem, Example]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    rng = random.Random(11)
    problems = islice(stream_problems("train", rng), 4000)
    return [(problem, make_example(problem, rng, wrong_share=0.5)) for problem in problems]


def test_no_program_of_the_corpus_has_a_held_out_behaviour(drawn: Drawn) -> None:
    texts = {text for _, example in drawn for text in example.programs}

    assert len(texts) > 1000
    assert {split_of(behaviour_of(text)) for text in texts} == {"train"}


def test_the_recorded_programs_are_all_there_are(drawn: Drawn) -> None:
    for _, example in drawn:
        lines = example.messages[-1]["content"].split("\n")
        shown = [line.removeprefix("right: ") for line in lines if line.startswith("right: ")]

        assert {example.response, *shown} <= set(example.programs)


def test_conditioned_answers_are_never_wrong_and_plain_ones_as_often_as_asked(
    drawn: Drawn,
) -> None:
    wrong = Counter(
        example.kind for p, example in drawn if not evaluate(example.response, p).solved
    )
    kinds = Counter(example.kind for _, example in drawn)

    assert set(wrong) == {"plain"}
    assert set(kinds) == {"plain", "trace", "demo", "both"}
    assert wrong["plain"] / kinds["plain"] == pytest.approx(0.5, abs=0.05)


def test_failed_attempts_behind_traces_do_fail(drawn: Drawn) -> None:
    traces = [(p, example) for p, example in drawn if example.kind == "trace"]

    assert all(not evaluate(example.programs[1], p).solved for p, example in traces)


def test_demonstrations_are_right_and_often_in_other_words(drawn: Drawn) -> None:
    demos = [(p, example) for p, example in drawn if example.kind == "demo"]
    other = [example for _, example in demos if example.programs[1] != example.response]

    assert all(evaluate(example.programs[1], p).solved for p, example in demos)
    assert len(other) > 0.3 * len(demos)


def test_broken_texts_do_not_compile() -> None:
    rng = random.Random(0)
    broken = {break_syntax("[v+1 for v in x if v%2]", rng) for _ in range(200)} - {""}

    assert len(broken) > 5
    for text in broken:
        with pytest.raises(SyntaxError):
            compile(text, "text", "eval")


def test_only_the_response_and_the_outputs_shown_carry_loss() -> None:
    tokenizer = make_tokenizer()
    chat = [{"role": "user", "content": "[1]->[2]\n[3]->4"}]
    example = Example(kind="plain", messages=chat, response="x", programs=("x",))

    encoded = encode(example, tokenizer)

    text = tokenizer.convert_ids_to_tokens(encoded.ids)
    weighted = [t for t, w in zip(text, encoded.weights, strict=True) if w > 0]
    assert weighted == ["[", "2", "]", "4", "x", "<|end|>"]
    assert encoded.weights[-2:] == [1.0, 1.0]
    assert max(encoded.weights[:-2]) < 1.0


def test_texts_fit_the_students_positions(drawn: Drawn) -> None:
    tokenizer = make_tokenizer()

    longest = max(len(encode(example, tokenizer).ids) for _, example in drawn[:1000])

    assert longest < MAX_POSITIONS / 1.5


def test_batches_are_seeded() -> None:
    tokenizer = make_tokenizer()

    def first(seed: int) -> list[list[int]]:
        config = replace(CLEAN, seed=seed, batch_size=4, steps=8)
        return [encoded.ids for encoded in next(stream_batches(config, tokenizer))]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_bytes_survive_the_tokenizer() -> None:
    tokenizer = make_tokenizer()
    text = "a  [v+1 for v in x]\n é \t→ don't"

    ids = tokenizer.encode(text, add_special_tokens=False)

    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_the_chat_template_opens_the_assistants_turn() -> None:
    tokenizer = make_tokenizer()
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]

    text = tokenizer.decode(prompt_ids(tokenizer, chat))
    closed = tokenizer.apply_chat_template(
        [*chat, {"role": "assistant", "content": "a"}], tokenize=False
    )

    assert text == "<|system|>s<|user|>u<|assistant|>"
    assert closed == text + "a<|end|>"
