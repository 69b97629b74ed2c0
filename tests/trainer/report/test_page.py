import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from preceptor_trainer.evaluation.samples import Sample, write_samples
from preceptor_trainer.kit.flatten import flatten
from preceptor_trainer.report import write_report
from preceptor_trainer.report.figures import write_figures
from preceptor_trainer.report.page import render
from preceptor_trainer.report.run_files import load_run

MakeRun = Callable[..., Path]
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>$\\frac{1}$'


class Outline(HTMLParser):
    """The tags of a page with their attributes, and whether each is closed."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def rendered(run_dir: Path) -> str:
    """The page without the figures, which take a second each."""
    return render(load_run(run_dir))


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    assert parsed.open == []
    return parsed


def names(page: Outline) -> set[str]:
    return {tag for tag, _ in page.tags}


def test_the_page_tells_the_result_and_how_to_trace_it(make_run: MakeRun) -> None:
    page = rendered(make_run())

    assert "+23.1 points" in page
    assert "+5.8 to +12.5" in page
    assert "trace t-5f1c09a2e7d4:21 --run-dir /" in page
    assert "optimiser.lr" in page
    assert "experts.0.name" in page
    assert "2.13.0+cpu" in page


def test_a_run_without_targets_names_a_token_to_trace_too(make_run: MakeRun) -> None:
    run_dir = make_run(summary_changes={"trace_target": "r-l0-3-1:4"}, worked={})

    page = rendered(run_dir)

    assert "No attempt of this run has a target to show." in page
    assert "trace r-l0-3-1:4 --run-dir /" in page


def test_the_page_needs_no_script_and_nothing_from_outside(make_run: MakeRun) -> None:
    page = rendered(make_run())

    found = outline(page)
    assert names(found).isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert not re.search(r"url\(|@import|https?://", page)
    policies = [a["content"] for t, a in found.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_a_model_writes_is_text_and_never_markup(make_run: MakeRun) -> None:
    token = {"text": HOSTILE, "id": 1, "student_logprob": -1.0, "labelled": True}
    opinion = {"entries": [[HOSTILE, 0.5]]}
    details = {HOSTILE: HOSTILE, "list": [HOSTILE], "rows": [{HOSTILE: HOSTILE}]}
    hostile = {
        "prompt": HOSTILE,
        "response": HOSTILE,
        "reference": HOSTILE,
        "feedback": [{"kind": HOSTILE, "text": HOSTILE, "source": HOSTILE, "details": details}],
        "experts": [{"name": HOSTILE}, {"name": HOSTILE}],
        "tokens": [token | {"opinions": [opinion, opinion], "cost": 1.0, "advantage": 1.0}],
    }
    run_dir = make_run(
        summary_changes={"run": HOSTILE, "config": {HOSTILE: HOSTILE}, "trace_target": HOSTILE},
        worked=hostile,
    )

    found = outline(rendered(run_dir))

    assert names(found).isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


def test_every_picture_has_words_and_every_table_has_headers(make_run: MakeRun) -> None:
    found = outline(rendered(make_run()))

    pictures = [a for _, a in found.tags if a.get("role") == "img"]
    assert len(pictures) == 2 + 5 + 1
    assert all(a["aria-label"] for a in pictures)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("table") == tags.count("thead") == tags.count("caption") == 7
    assert all(a.get("scope") in ("row", "col") for tag, a in found.tags if tag == "th")
    assert ("html", {"lang": "en"}) in found.tags


def test_every_expert_of_a_mixture_is_drawn_with_its_share(make_run: MakeRun) -> None:
    token = {"text": "x", "id": 1, "student_logprob": -1.0, "labelled": True, "cost": 1.0}
    first = {"weight": 0.75, "entries": [["y", 0.9]]}
    second = {"weight": 0.25, "entries": [["z", 0.6]]}
    experts = [{"name": "self-teacher"}, {"name": "words"}]
    tokens = [token | {"opinions": [first, second]}, token | {"opinions": [first, None]}]

    page = rendered(make_run(worked={"experts": experts, "tokens": tokens}))

    for guess in ("<code>y</code><b>90\u202f%</b>", "<code>z</code><b>60\u202f%</b>"):
        assert guess in page
    assert '<div class="whose"><span>2</span><b>25\u202f%</b></div>' in page
    assert '<div class="whose"><span>2</span><b>–</b></div>' in page
    assert '<th scope="col">words would write</th>' in page
    assert "<b>1</b> self-teacher, <b>2</b> words" in page


def test_the_picture_has_a_row_for_every_expert_of_a_mixture(make_run: MakeRun) -> None:
    heights: list[int] = []
    for experts in (["a"], ["a", "b", "c"]):
        run = load_run(make_run(worked={"experts": [{"name": name} for name in experts]}))
        heights.append(_height(write_figures(run, run.folder / "figures")[-1]))
        shutil.rmtree(run.folder.parent)

    assert heights[1] > heights[0]


def _height(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.height


def test_details_of_feedback_are_tables_and_readable_lists(make_run: MakeRun) -> None:
    page = rendered(make_run())

    assert '<th scope="row">tried</th><td>namespaces, limits</td>' in page
    assert '<th scope="col">input</th><th scope="col">got</th>' in page
    assert "<td>[1,1,4]</td><td>–</td>" in page


def test_a_run_without_a_target_and_without_steps_still_has_a_page(make_run: MakeRun) -> None:
    run_dir = make_run(worked={}, num_steps=0)

    page = write_report(run_dir).read_text()

    outline(page)
    assert "too few steps" in page
    assert "No attempt of this run has a target to show" in page
    assert list((run_dir / "figures").iterdir()) == []


def test_the_page_counts_corrections_where_people_took_part(make_run: MakeRun) -> None:
    people = {"sent": 50, "standing": 1, "trained": 160}

    page = render(load_run(make_run({"corrections": people})))

    assert "<dt>Corrections</dt><dd>50 rollouts sent to people, 1 stands, trained on 160" in page


def test_a_local_objective_is_said_to_give_no_future_credit(make_run: MakeRun) -> None:
    token = {"text": "x", "id": 1, "student_logprob": -1.0, "labelled": True, "cost": 1.0}

    page = rendered(make_run(worked={"tokens": [token]}))

    assert "no future credit" in page
    assert 'class="credit' not in page


def test_a_long_attempt_is_cut_in_the_picture_and_whole_in_the_table(make_run: MakeRun) -> None:
    token = {"text": "x", "id": 1, "student_logprob": -1.0, "labelled": True, "cost": 1.0}

    page = rendered(make_run(worked={"tokens": [token] * 300}))

    assert page.count('class="written') == 96
    assert "The first 96 of 300 tokens" in page
    assert '<th scope="row">299</th>' in page


def test_the_figures_are_written_for_a_readme(make_run: MakeRun) -> None:
    run_dir = make_run()
    write_report(run_dir)

    for name in ("training_curve.png", "worked_rollout.png"):
        with Image.open(run_dir / "figures" / name) as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no summary\.json; the run has not finished"):
        write_report(tmp_path)


def test_a_field_that_says_nothing_sensible_is_named(make_run: MakeRun) -> None:
    run_dir = make_run(summary_changes={"steps": "many"})

    with pytest.raises(ValueError, match=r"summary\.json: .*\n?steps"):
        write_report(run_dir)


def test_a_report_needs_no_torch() -> None:
    code = "import sys, preceptor_trainer.report.command; assert 'torch' not in sys.modules"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_settings_are_flattened_to_dotted_names() -> None:
    config: dict[str, Any] = {"a": {"b": 1, "c": [2, 3]}, "d": [{"e": None}]}

    assert flatten(config) == {"a.b": "1", "a.c": "[2, 3]", "d.0.e": "None"}


def test_a_run_that_withheld_the_feedback_does_not_claim_otherwise(make_run: MakeRun) -> None:
    run_dir = make_run(num_steps=0)
    line = '{"step": 0, "lineage": "a", "with_feedback": 0.0, "with_demonstration": 0.0}'
    (run_dir / "metrics.jsonl").write_text(line + "\n")

    assert "experts from whom it was withheld" in rendered(run_dir)
    assert "with that feedback in view" not in rendered(run_dir)


def test_without_a_baseline_nothing_is_compared_with_siblings(make_run: MakeRun) -> None:
    run_dir = make_run(summary_changes={"config": {"objective": {"baseline": "none"}}})

    assert "without a baseline every token is charged" in rendered(run_dir)
    assert "other attempts" not in rendered(run_dir)


def with_answers(run_dir: Path) -> None:
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text())
    summary["evaluations"] = [
        {"label": "before", "step": 0, "weights": "q/l0/0", "pass_at": {"pass@1": 0.25}},
        {"label": "step-20", "step": 20, "weights": "q/l0/20", "pass_at": {"pass@1": 0.5}},
    ]
    path.write_text(json.dumps(summary))
    shared = {"problem": "p", "count": 3, "finish_reason": "length", "score": 0.0}
    samples = [
        Sample(prompt="2+2?", response=HOSTILE, solved=False, says="it is 4", **shared),
        Sample(prompt="2+2?", response="4", solved=True, says="", **shared),
    ]
    write_samples(run_dir / "evaluations" / "step-20.json", samples)


def test_held_out_answers_are_shown_with_their_verdicts_and_filtered_without_a_script(
    make_run: MakeRun,
) -> None:
    run_dir = make_run()
    with_answers(run_dir)

    page = rendered(run_dir)
    shown = outline(page)

    assert "After step 20: pass@1 50.0\u202f%" in page
    assert "it is 4" in page
    assert "wrong, cut off" in page
    assert "script" not in names(shown)
    rows = [attrs["class"] for tag, attrs in shown.tags if tag == "tr" and attrs.get("class")]
    assert rows == ["wrong", "right"]
    assert {attrs["id"] for tag, attrs in shown.tags if tag == "input"} >= {"show-wrong"}


def test_a_run_without_samples_has_no_such_table(make_run: MakeRun) -> None:
    assert "Held-out answers" not in rendered(make_run())
