"""Edits to targets: what departs is labelled, what is off the path is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.corrections import EditRules
from preceptor_clients.contract.schemas import Capabilities, PrefixQuery, Prompt
from preceptor_clients.targets.edits import (
    CompiledEdit,
    LabelRules,
    compile_edit,
    edit_answer,
    spelled,
)
from preceptor_clients.targets.spelling import TokenizerSpelling

ALPHABET = [*"ab xX01(\t", "\r\n", "\n", "é", "ß", "東", "😀", "😁", "👩‍💻", "def", "define", "  "]
TEXT = st.lists(st.sampled_from(ALPHABET), max_size=24).map("".join)
EDIT = st.tuples(
    st.integers(0, 60), st.integers(0, 8), st.lists(st.sampled_from(ALPHABET), max_size=4)
)


def ids_of(spelling: Any, text: str, end: bool = True) -> np.ndarray:
    return np.array([*spelling.encode(text), *([spelling.eos_id] if end else [])], np.int32)


def rebuilt(edit: CompiledEdit) -> list[int]:
    """The correction, read off the base and the spans."""
    ids: list[int] = []
    at = 0
    for span in edit.spans:
        ids += edit.base_ids[at : span.start].tolist()
        ids += edit.takeover_ids[span.first : span.last].tolist()
        at = span.stop
    return ids + edit.base_ids[at:].tolist()


def test_a_changed_token_is_the_label_where_the_texts_part(student: TokenizerSpelling) -> None:
    base = ids_of(student, "x[0]+1")

    edit = compile_edit(student, base, "x[9]+1", EditRules())

    assert edit.departures() == {2: ord("9")}
    labels = edit.base_labels(accepted=False)
    assert labels.tolist() == [-1, -1, ord("9"), -1, -1, -1, -1]
    assert spelled(student, edit.takeover_ids) == "x[9]+1"


def test_off_path_tokens_get_no_label_even_where_acceptance_counts(
    student: TokenizerSpelling,
) -> None:
    base = ids_of(student, "sorted(x)[0] + 1")

    edit = compile_edit(student, base, "max(y) + 1", EditRules())

    [span] = edit.spans
    labels = edit.base_labels(accepted=True)
    assert labels[0] == ord("m")
    assert (labels[span.start + 1 : span.stop] == -1).all()
    assert (labels[span.stop :] == base[span.stop :]).all()


def test_several_edits_each_have_their_departure(student: TokenizerSpelling) -> None:
    base = ids_of(student, "first part, then the middle, and the end")

    edit = compile_edit(student, base, "First part, then a middle, and the END", EditRules())

    assert len(edit.spans) == 3
    assert {chr(token) for token in edit.departures().values()} == {"F", "a", "E"}


def test_short_coincidences_are_no_rejoining(student: TokenizerSpelling) -> None:
    base = ids_of(student, "aXbYc tail")

    edit = compile_edit(student, base, "a1b2c tail", EditRules(rejoin_tokens=3))

    assert [(s.start, s.stop) for s in edit.spans] == [(1, 4)]


def test_a_deletion_is_labelled_with_what_comes_instead(student: TokenizerSpelling) -> None:
    base = ids_of(student, "go on and on, please")

    edit = compile_edit(student, base, "go on, please", EditRules())

    [(position, token)] = edit.departures().items()
    assert "go on"[: position + 1] == "go on"[:position] or base[position] != token
    assert token == ord(",")
    assert chr(edit.takeover_ids[position]) == ","


def test_a_deleted_repetition_departs_where_it_really_differs(student: TokenizerSpelling) -> None:
    edit = compile_edit(student, ids_of(student, "abcabcabd!!"), "abcabd!!", EditRules())

    for position, token in edit.departures().items():
        assert edit.base_ids[position] != token


def test_an_end_that_comes_too_late_is_labelled_with_the_end_token(
    student: TokenizerSpelling,
) -> None:
    edit = compile_edit(student, ids_of(student, "x+1 and more"), "x+1", EditRules())

    assert edit.departures() == {3: student.eos_id}


def test_a_response_that_was_cut_off_ends_only_if_the_person_said_how(
    student: TokenizerSpelling,
) -> None:
    base = ids_of(student, "one two thr", end=False)

    early = compile_edit(student, base, "ONE two thr", EditRules())
    late = compile_edit(student, base, "one two three", EditRules())

    assert student.eos_id not in early.takeover_ids
    assert late.takeover_ids[-1] == student.eos_id
    assert late.departures() == {}


def test_a_prefix_that_ends_inside_a_token_backs_up_to_a_shared_boundary(bpe: Any) -> None:
    define = bpe.encode("define")
    assert len(define) == 1, "the vocabulary was trained to merge it"
    base = ids_of(bpe, "def(x)")
    assert len(bpe.encode("def")) == 1

    edit = compile_edit(bpe, base, "define(x)", EditRules())

    assert edit.departures() == {0: define[0]}
    assert spelled(bpe, edit.takeover_ids) == "define(x)"


def test_bytes_shared_by_two_emoji_are_no_departure(student: TokenizerSpelling) -> None:
    edit = compile_edit(student, ids_of(student, "😀"), "😁", EditRules())

    assert list(edit.departures()) == [3]
    assert spelled(student, edit.takeover_ids) == "😁"


def test_an_accepted_response_has_no_labels_unless_acceptance_counts(spelling: Any) -> None:
    base = ids_of(spelling, "left as it is")

    edit = compile_edit(spelling, base, "left as it is", EditRules())

    assert edit.spans == ()
    assert (edit.base_labels(accepted=False) == -1).all()
    assert (edit.base_labels(accepted=True) == base).all()
    assert (edit.takeover_ids == base).all()


def test_the_spelling_of_a_special_token_is_only_characters(student: TokenizerSpelling) -> None:
    edit = compile_edit(student, ids_of(student, "x"), "x<|end|>y", EditRules())

    assert student.eos_id not in edit.takeover_ids[:-1]
    assert spelled(student, edit.takeover_ids) == "x<|end|>y"


def test_broken_bytes_that_nobody_touched_stay_as_they_were(student: TokenizerSpelling) -> None:
    base = np.array([*b"ab \xf0\x9f cd", student.eos_id], np.int32)
    shown = spelled(student, base)

    edit = compile_edit(student, base, shown.replace("cd", "ce"), EditRules())

    assert edit.takeover_ids[:5].tolist() == base[:5].tolist()
    assert edit.departures() == {7: ord("e")}


def test_a_forced_prefix_ends_with_the_change(student: TokenizerSpelling) -> None:
    edit = compile_edit(student, ids_of(student, "x[0]+1"), "x[99]+1", EditRules())

    assert spelled(student, edit.forced_prefix()) == "x[99"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_edit_passes_the_check_at_the_door_as_an_answer(
    student: TokenizerSpelling, smoothing: float
) -> None:
    base = ids_of(student, "x[0]+1")
    edit = compile_edit(student, base, "x[9]+1", EditRules())
    query = PrefixQuery(
        prompt=Prompt(ids=np.array([1], np.int32)),
        response_ids=base,
        positions=((1, 5),),
        vocab_fingerprint="ab" * 32,
    )

    rules = LabelRules(smoothing=smoothing)
    labels = edit.base_labels(accepted=False)
    answer = edit_answer(query, labels, rules, expert="people", expert_version="1")

    check_answer(query, answer, Capabilities(kinds=("point",)))
    assert answer.mask_P.tolist() == [False, True, False, False]
    assert answer.tail_P[1] == pytest.approx(smoothing, abs=1e-6)


def _edited(text: str, edits: list[tuple[int, int, list[str]]]) -> str:
    for place, length, new in edits:
        at = place % (len(text) + 1)
        text = text[:at] + "".join(new) + text[at + length :]
    return text


def _cut_again(spelling: Any, ids: np.ndarray, where: list[int]) -> np.ndarray:
    """Another tokenisation of the same text: some tokens in bytes, as a student may write them."""
    by_piece = {spelling.piece(i): i for i in range(600) if len(spelling.piece(i)) == 1}
    out: list[int] = []
    for place, token in enumerate(ids.tolist()):
        piece = spelling.piece(token)
        split = place in where and len(piece) > 1
        out += [by_piece[bytes([b])] for b in piece] if split else [token]
    return np.array(out, np.int32)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=TEXT,
    edits=st.lists(EDIT, max_size=3),
    where=st.lists(st.integers(0, 30), max_size=6),
    end=st.booleans(),
    rejoin=st.integers(1, 4),
)
def test_any_edit_of_any_tokenisation_is_what_the_person_wrote(
    spelling: Any, text: str, edits: Any, where: list[int], end: bool, rejoin: int
) -> None:
    base = _cut_again(spelling, ids_of(spelling, text, end), where)
    wanted = _edited(text, edits)

    edit = compile_edit(spelling, base, wanted, EditRules(rejoin_tokens=rejoin))

    assert spelled(spelling, edit.takeover_ids) == wanted
    assert rebuilt(edit) == edit.takeover_ids.tolist()
    labels, strict = edit.base_labels(accepted=True), edit.base_labels(accepted=False)
    off_path = ~edit.shared_T()
    for span in edit.spans:
        assert span.stop > span.start or span.last > span.first
        if span.start < len(base) and span.first < len(edit.takeover_ids):
            assert strict[span.start] != base[span.start]
        off_path[span.start : span.start + 1] = False
    assert (labels[off_path] == -1).all()
    assert set(np.flatnonzero(strict >= 0)) == set(edit.departures())
    # The common prefix is the student's own tokens, whatever they are.
    first = edit.spans[0].start if edit.spans else len(base)
    assert edit.takeover_ids[:first].tolist() == base[:first].tolist()
    assert (edit.takeover_labels(accepted=False)[:first] == -1).all()
