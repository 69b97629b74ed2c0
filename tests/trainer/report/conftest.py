"""A finished run's folder, as the loop leaves it: forty steps that helped, one failed attempt."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preceptor_trainer.run.watching.metrics_log import MetricsLog

MakeRun = Callable[..., Path]

RESPONSE = "[v*2 for v in x if v>0][::-1]"
DEPARTURES = {0: "s", 21: "1", 23: "\n"}
"""Where the expert would write something else: `sorted([...` , `v>1`, and no reversal."""


def summary() -> dict[str, Any]:
    return {
        "run": "quickstart",
        "seed": 1,
        "steps": 40,
        "before": evaluation((0.345, 0.312, 0.379), (0.712, 0.671, 0.752), 16.2),
        "after": evaluation((0.576, 0.537, 0.614), (0.803, 0.768, 0.838), 15.1),
        "gain": {"pass@1": interval(0.231, 0.198, 0.264), "pass@8": interval(0.091, 0.058, 0.125)},
        "phases": {
            "sampling": 61.2,
            "feedback": 22.8,
            "experts": 48.9,
            "targets": 3.1,
            "update": 44.0,
            "publish": 6.4,
            "evaluation": 38.5,
        },
        "seconds": 186.4,
        "rollouts": 2560,
        "targets": 2034,
        "versions": {
            "preceptor": "0.1.0.dev0",
            "python": "3.11.9",
            "torch": "2.13.0+cpu",
            "transformers": "5.17.0",
            "numpy": "2.4.1",
            "threads": "2",
        },
        "config": {
            "class": "RunConfig",
            "name": "quickstart",
            "objective": {"class": "DistIL", "future": "ce", "baseline": "loo", "gamma": 1.0},
            "optimiser": {"class": "OptimiserConfig", "lr": 0.0002, "warmup_steps": 5},
            "experts": [{"class": "ExpertUse", "name": "self-teacher", "top_k": 32}],
            "sources": ["executor"],
            "rollouts_per_problem": 8,
        },
        "trace_target": "t-5f1c09a2e7d4:21",
    }


def evaluation(
    first: tuple[float, float, float], eighth: tuple[float, float, float], length: float
) -> dict[str, Any]:
    return {
        "pass@1": interval(*first),
        "pass@8": interval(*eighth),
        "mean_length": length,
        "num_problems": 200,
        "num_samples": 16,
    }


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def worked_rollout() -> dict[str, Any]:
    texts = [*RESPONSE, "<|im_end|>"]
    costs = [2.9 if t in DEPARTURES else 0.04 + 0.4 * (t % 7 == 3) for t in range(len(texts))]
    return {
        "target_id": "t-5f1c09a2e7d4",
        "rollout_id": "quickstart-a-7-12",
        "step": 7,
        "prompt": "[3,1,2]->[4,6]\n[5,0,1,2]->[4,10]\n[1,1,4]->[8]",
        "response": RESPONSE,
        "solved": False,
        "feedback": [
            {
                "kind": "execution",
                "text": "[3,1,2]->[4,6] not [4,2,6]\n[1,1,4]->[8] not [8,2,2]",
                "source": "executor",
                "details": {
                    "isolation": "process with limits",
                    "tried": ["namespaces", "limits"],
                    "cases": [{"input": "[3,1,2]", "got": "[4,6]"}, {"input": "[1,1,4]"}],
                },
            }
        ],
        "experts": [{"name": "self-teacher", "kind": "topk"}],
        "reference": "sorted([v*2 for v in x if v>1])",
        "tokens": [token(t, text, costs) for t, text in enumerate(texts)],
        "focus": 21,
    }


def token(t: int, text: str, costs: list[float]) -> dict[str, Any]:
    would = DEPARTURES.get(t, text)
    own_prob = 0.06 if t in DEPARTURES else math.exp(-costs[t])
    entries = [[would, 0.84 if t in DEPARTURES else own_prob]]
    if t in DEPARTURES:
        entries.append([text, own_prob])
    known = {text for text, _ in entries}
    entries += [[other, prob] for other, prob in (("(", 0.03), ("~", 0.004)) if other not in known]
    later = sum(costs[t + 1 :])
    return {
        "text": text,
        "id": ord(text[0]),
        "student_logprob": -0.3 - 0.5 * (t in DEPARTURES),
        "owned": True,
        "labelled": True,
        "cost": costs[t],
        "advantage": later - 5.1 * (1 - t / len(costs)),
        "opinions": [{"weight": 1.0, "entries": entries, "tail": 0.01, "own_prob": own_prob}],
    }


def write_metrics(run_dir: Path, num_steps: int) -> None:
    noise = random.Random(0)
    with MetricsLog(run_dir, first_step=0) as log:
        for step in range(num_steps):
            solved = 0.34 + 0.27 * (1 - math.exp(-step / 14)) + noise.gauss(0, 0.035)
            log.write(
                step,
                "a",
                {
                    "loss": 4.9 * math.exp(-step / 30) + noise.gauss(0, 0.25),
                    "reward": solved,
                    "with_teacher": min(1.0, 0.72 + 0.12 * step / 40 + noise.gauss(0, 0.03)),
                    "response_length": 16.4 - step / 35 + noise.gauss(0, 0.3),
                    "entropy": 0.52 * math.exp(-step / 60) + noise.gauss(0, 0.01),
                    "seconds/sampling": 1.5,
                },
            )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a finished run; `summary` and `worked` replace fields, `worked=None` leaves it out."""

    def make(
        summary_changes: dict[str, Any] | None = None,
        worked: dict[str, Any] | None = None,
        num_steps: int = 40,
    ) -> Path:
        run_dir = tmp_path / "runs" / "quickstart"
        run_dir.mkdir(parents=True)
        write_metrics(run_dir, num_steps)
        changed = summary() | (summary_changes or {})
        (run_dir / "summary.json").write_text(json.dumps(changed))
        if worked != {}:
            content = worked_rollout() | (worked or {})
            (run_dir / "worked_rollout.json").write_text(json.dumps(content))
        return run_dir

    return make


@pytest.fixture
def summary_content() -> dict[str, Any]:
    return summary()


@pytest.fixture
def worked_content() -> dict[str, Any]:
    return worked_rollout()
