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
    (cell,) = cells(worked(worked_content, {"entries": entries, "own_prob": 0.3}))

    assert [(e.text, e.own) for e in cell.entries] == [("b", False), ("a", True), ("c", False)]
    assert not cell.agrees
    assert cell.own_prob is None


def test_a_token_that_the_expert_holds_improbable_has_its_probability_added(
    worked_content: dict[str, Any],
) -> None:
    (cell,) = cells(worked(worked_content, {"entries": [["b", 0.99]], "own_prob": 0.001}))

    assert cell.own_prob is not None
    assert cell.own_prob.startswith("<1")


def test_an_objective_without_future_term_has_no_credit(worked_content: dict[str, Any]) -> None:
    assert not has_credit(worked(worked_content, {"advantage": None}, {"advantage": 0.0}))
    assert has_credit(worked(worked_content, {"advantage": None}, {"advantage": 0.1}))
