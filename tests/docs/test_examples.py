"""Files of `examples/` that a page shows are shown as they are."""

import json
import re

import pytest
from docs_pages import ROOT, blocks

PAGE = "docs/tutorials/a-real-model.md"


@pytest.mark.parametrize(("kind", "name"), [("toml", "run.toml"), ("python", "judge.py")])
def test_the_tutorial_shows_the_examples_file(kind, name):
    shown = [code for place, code in blocks(kind) if place.startswith(PAGE)]

    assert [code.strip() for code in shown] == [
        (ROOT / "examples" / "multiply" / name).read_text().strip()
    ]


def test_held_out_questions_share_no_pair_of_factors_with_others():
    def pairs(split):
        lines = (ROOT / "examples" / "multiply" / f"{split}.jsonl").read_text().splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
        return {frozenset(map(int, re.findall(r"\d+", prompt)[:2])) for prompt in prompts}

    splits = [pairs(split) for split in ("train", "validation", "held_out")]

    assert sum(map(len, splits)) == len(set().union(*splits))
