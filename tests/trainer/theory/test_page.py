"""A stale page fails: numbers, tables and figures are computed again and compared."""

import pytest

from preceptor_trainer.theory.page import MODULES, draw, with_tables

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", MODULES)
def test_committed_numbers_are_what_the_code_finds_now(found, committed, name):
    assert committed[name].numbers == pytest.approx(found[name].numbers, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_data_of_the_figures_is_what_the_code_finds_now(found, committed, name):
    now, then = found[name].chart, committed[name].chart

    assert then.x == pytest.approx(now.x, rel=1e-3, abs=1e-6)
    assert then.lines.keys() == now.lines.keys()
    for label, line in now.lines.items():
        assert then.lines[label] == pytest.approx(line, rel=1e-3, abs=1e-6)


def test_tables_of_the_page_are_the_committed_numbers(docs, committed):
    page = (docs / "explanation" / "theory.md").read_text()

    assert page == with_tables(page, committed)


@pytest.mark.parametrize("name", MODULES)
def test_page_shows_a_figure_drawn_from_the_committed_numbers(docs, committed, name):
    page = (docs / "explanation" / "theory.md").read_text()
    figure = (docs / "figures" / "theory" / f"{name}.svg").read_text()

    assert f"(../figures/theory/{name}.svg)" in page
    assert committed[name].chart_hash() in figure


def test_figure_is_the_same_bytes_twice(committed, tmp_path):
    for name in ("once", "again"):
        draw(committed["length"], tmp_path / f"{name}.svg")

    assert (tmp_path / "once.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_page_without_a_place_for_its_numbers_is_refused(committed):
    with pytest.raises(ValueError, match="0 places for the numbers of 'bandits'"):
        with_tables("# no markers", committed)
