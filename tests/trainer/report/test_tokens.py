from typing import Any

from preceptor_trainer.report.run_files import WorkedRollout
from preceptor_trainer.report.tokens import cells, has_credit


def worked(content: dict[str, Any], *tokens: dict[str, Any]) -> WorkedRollout:
    plain = {"text": "a", "id": 1, "student_logprob": -0.7, "labelled": True}
    return WorkedRollout.model_validate(content | {"tokens": [plain | t for t in tokens]})


def test_a_charged_token_points_down_and_a_favoured_one_up(worked_content: dict[str, Any]) -> None:
    drawn = cells(worked(worked_content, {"advantage": 2.0}, {"advantage": -1.0}))

    assert [(c.credit, c.direction, c.credit_bar) for c in drawn] == [
        ("−2.00", "down", 100.0),
        ("+1.00", "up", 50.0),
    ]


def test_costs_share_one_scale(worked_content: dict[str, Any]) -> None:
    drawn = cells(worked(worked_content, {"cost": 3.0}, {"cost": 1.5}, {"cost": None}))

    assert [(c.cost, c.cost_bar, c.heat) for c in drawn] == [
        ("3.00", 100.0, 4),
        ("1.50", 50.0, 2),
        ("–", 0.0, 0),
    ]


def test_three_entries_are_shown_and_the_students_own_is_marked(
    worked_content: dict[str, Any],
) -> None:
    entries = [["b", 0.6], ["a", 0.3], ["c", 0.05], ["d", 0.01]]
    opinion = {"entries": entries, "own_prob": 0.3}
    (cell,) = cells(worked(worked_content, {"opinions": [opinion]}))

    (guess,) = cell.guesses
    assert guess is not None
    assert [(e.text, e.own) for e in guess.entries] == [("b", False), ("a", True), ("c", False)]
    assert guess.own_prob is None


def test_a_token_that_the_expert_holds_improbable_has_its_probability_added(
    worked_content: dict[str, Any],
) -> None:
    opinion = {"entries": [["b", 0.99]], "own_prob": 0.001}
    (cell,) = cells(worked(worked_content, {"opinions": [opinion]}))

    (guess,) = cell.guesses
    assert guess is not None
    assert guess.own_prob is not None
    assert guess.own_prob.startswith("<1")


def test_a_file_of_an_older_version_is_read_with_its_one_expert(
    worked_content: dict[str, Any],
) -> None:
    token = {"entries": [["b", 0.9]], "tail": 0.1, "own_prob": 0.01}
    older = {name: value for name, value in worked_content.items() if name != "experts"}

    read = worked(older, token, token | {"labelled": False})

    assert [expert.name for expert in read.experts] == ["expert"]
    labelled, unlabelled = (token.opinions for token in read.tokens)
    assert labelled[0] is not None
    assert labelled[0].entries == (("b", 0.9),)
    assert unlabelled == (None,)


def test_an_objective_without_future_term_has_no_credit(worked_content: dict[str, Any]) -> None:
    assert not has_credit(worked(worked_content, {"advantage": None}, {"advantage": 0.0}))
    assert has_credit(worked(worked_content, {"advantage": None}, {"advantage": 0.1}))
