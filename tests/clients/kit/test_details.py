from typing import Any

from preceptor_clients.kit.details import facts, readable_value, tables

DETAILS: dict[str, Any] = {
    "passed": 1,
    "cases": [{"input": "[3]", "got": None}, {"input": "[4]", "outcome": {"ended": "wrong"}}],
    "isolation": {"level": "process", "tried": ["a", "b"], "runs": [{"cpu": 0.5}]},
    "rows": [[1, 2], [3]],
    "none": [],
}


def test_values_are_readable_and_never_python_text() -> None:
    assert facts(DETAILS) == {
        "passed": "1",
        "isolation.level": "process",
        "isolation.tried": "a, b",
        "rows": "[[1, 2], [3]]",
        "none": "[]",
    }
    assert [readable_value(v) for v in (None, True, "x", [1, None])] == ["–", "true", "x", "1, –"]


def test_a_list_of_mappings_is_a_table_at_any_depth() -> None:
    cases, runs = tables(DETAILS)

    assert (cases.name, cases.columns) == ("cases", ("input", "got", "outcome"))
    assert cases.rows == (("[3]", "–", "–"), ("[4]", "–", '{"ended": "wrong"}'))
    assert (runs.name, runs.rows) == ("isolation.runs", (("0.5",),))
