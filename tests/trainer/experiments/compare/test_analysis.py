"""From cells to what may be said."""

import json
from dataclasses import asdict, replace

import pytest

from preceptor_trainer.experiments.compare.analysis import analyse, learning_curve
from preceptor_trainer.experiments.compare.cells import Outcomes
from preceptor_trainer.experiments.compare.page import render, write_comparison
from preceptor_trainer.experiments.compare.pictures import draw_curves, panels
from preceptor_trainer.experiments.compare.runner import choose_rates
from preceptor_trainer.experiments.compare.tables import (
    behaviour_table,
    claims,
    markdown,
    order_table,
)
from preceptor_trainer.report.wording import duration


def finished(comparison, result, *, after=None):
    """All cells; `after` is the number of right samples by method."""
    after = after or {"a": 4, "b": 4}
    search = [result(comparison, c, after=c.lr == 2e-4) for c in comparison.search_cells()]
    rates = choose_rates(comparison, search)
    final = [result(comparison, c, after=after[c.method]) for c in comparison.final_cells(rates)]
    return search, final


def test_the_rate_with_the_best_validation_score_is_chosen(comparison, result):
    search, _ = finished(comparison, result)

    assert choose_rates(comparison, search) == {"a": 2e-4, "b": 2e-4}


def test_of_equal_rates_the_smaller_is_chosen(comparison, result):
    search = [result(comparison, cell) for cell in comparison.search_cells()]

    assert choose_rates(comparison, search) == {"a": 1e-4, "b": 1e-4}


def test_equal_methods_have_no_order(comparison, result):
    analysis = analyse(comparison, *finished(comparison, result))

    (difference,) = analysis["differences"]["pass@1"]
    assert not difference["claimed"]
    assert "1 of 1 pairs stay open" in " ".join(claims(analysis))


def test_a_large_paired_difference_is_claimed_with_its_sign(comparison, result):
    analysis = analyse(comparison, *finished(comparison, result, after={"a": 2, "b": 6}))

    (difference,) = analysis["differences"]["pass@1"]
    assert difference["estimate"]["mean"] == pytest.approx(-0.5)
    assert difference["claimed"]
    assert "A below B" in " ".join(claims(analysis))
    row = order_table(analysis, "pass@1").rows[0]
    assert row[0] == "B"
    assert row[1].startswith("+50.0 (")


def test_cells_that_answered_other_problems_are_not_paired(comparison, result):
    search, final = finished(comparison, result)
    stray = replace(final[-1], after=replace(final[-1].after, problem_ids=("x",) * 6))

    with pytest.raises(ValueError, match="not paired"):
        analyse(comparison, search, [*final[:-1], stray])


def test_a_method_that_used_what_it_does_not_declare_gets_no_report(comparison, result):
    search, final = finished(comparison, result)
    leaky = replace(final[0], observed=final[0].observed | {"kind/reference": 2})

    with pytest.raises(ValueError, match="a declares reference=False, but 2 targets"):
        analyse(comparison, search, [leaky, *final[1:]])


def test_learning_curves_use_the_steps_that_every_seed_reached(comparison, result):
    _, final = finished(comparison, result)
    short = replace(final[0], probes=final[0].probes[:1])

    assert [point["step"] for point in learning_curve([short, final[2]])] == [0]


def test_a_missing_grade_leaves_its_problem_out_where_too_few_are_graded(comparison, result):
    search, final = finished(comparison, result, after={"a": 2, "b": 6})
    graded = (7, 8, 8, 8, 8, 8)
    short = replace(final[-1], after=replace(final[-1].after, graded_P=graded))

    analysis = analyse(comparison, search, [*final[:-1], short])

    (one,), (eight,) = analysis["differences"]["pass@1"], analysis["differences"]["pass@8"]
    assert (one["estimate"]["num_problems"], eight["estimate"]["num_problems"]) == (6, 5)
    assert short.after.num_ungraded == 1
    assert short.after.pass_at(1)[0] == pytest.approx(6 / 7)
    page = markdown(analysis)
    assert "1 samples were not graded and count neither way." in page
    assert "pass@1 6, pass@8 5" in page


def test_cells_of_older_versions_have_every_grade(comparison, result):
    _, final = finished(comparison, result)
    older = {n: v for n, v in asdict(final[0].after).items() if n != "graded_P"}

    assert Outcomes.read(older) == final[0].after
    assert Outcomes.read(older).num_ungraded == 0


def test_the_cost_table_has_what_whole_runs_took_as_far_as_it_is_known(comparison, result):
    search, final = finished(comparison, result)
    timed = [replace(r, wall_seconds=60.0 if r.cell.method == "a" else None) for r in final]

    analysis = analyse(comparison, search, timed)

    table = behaviour_table(analysis)
    place = table.columns.index("whole run")
    assert [row[place] for row in table.rows] == [duration(60), "–"]
    assert f"All 2 of 8 runs, those of the search too, took {duration(120)}" in table.note


def test_the_report_names_the_student_by_its_bytes_and_not_by_its_folder(comparison, result):
    analysis = analyse(comparison, *finished(comparison, result))

    assert str(comparison.setting.model) not in json.dumps(analysis)


def test_the_report_is_one_page_and_raw_counts(tmp_path, comparison, result):
    analysis = analyse(comparison, *finished(comparison, result, after={"a": 2, "b": 6}))

    page = write_comparison(analysis, tmp_path)

    text = page.read_text()
    assert "<script" not in text
    assert 'src="http' not in text
    assert "Learning curve against wall-clock" in text
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert stored["cells"][-1]["after"]["successes_P"] == [6, 7, 6, 7, 6, 7]
    assert (tmp_path / "compare.png").stat().st_size > 1000
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "| A |" in (tmp_path / "compare.md").read_text()


def test_the_curves_have_every_method_in_every_panel(comparison, result):
    analysis = analyse(comparison, *finished(comparison, result))

    shown = {panel.title.replace("\n", " "): panel for panel in panels(analysis["methods"])}

    assert list(shown) == [
        "pass@k against k dashed: before",
        "probe pass@1 against steps",
        "probe pass@1 against seconds",
        "response length in tokens against steps",
        "entropy in nats a token against steps",
    ]
    assert all(set(panel.lines) == {"a", "b"} for panel in shown.values())
    assert [k for k, _ in shown["pass@k against k dashed: before"].lines["a"]] == [1, 2, 4, 8]
    assert shown["probe pass@1 against seconds"].lines["b"] == [(0, 0.25), (3, 0.25)]


def test_curves_of_runs_without_entropy_have_no_panel_for_it(comparison, result):
    search, final = finished(comparison, result)
    silent = [replace(r, metrics=[line | {"entropy": None} for line in r.metrics]) for r in final]

    titles = [panel.title for panel in panels(analyse(comparison, search, silent)["methods"])]

    assert len(titles) == 4
    assert not any("entropy" in title for title in titles)


def test_runs_too_short_for_a_line_have_a_picture_all_the_same(tmp_path, comparison, result):
    search, final = finished(comparison, result)
    short = [replace(r, metrics=r.metrics[:1], probes=r.probes[:1], steps=1) for r in final]

    draw_curves(analyse(comparison, search, short), tmp_path / "curves.png")

    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_what_a_method_calls_itself_cannot_break_the_page(planned, method, result):
    comparison = planned(method("a", title="<b>A|A"), method("b"))
    analysis = analyse(comparison, *finished(comparison, result))

    assert "<b>A" not in render(analysis)
    assert "A\\|A" in markdown(analysis)
