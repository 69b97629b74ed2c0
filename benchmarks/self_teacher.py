"""What a small student learns from itself, before it learns: its teacher's words and its ends.

    python examples/smollm2.py models/smollm2
    python benchmarks/self_teacher.py

The student of `examples/multiply` answers validation rows, in groups of four. Each attempt that has
a teacher in that run (the student with a right answer in view: its own, else a sibling's) is read
by teachers that differ in wording and temperature. For each:

    itself    it answers the question alone, with the same right answer in view
    beside    its next-token distribution along the student's attempt, beside the student's

Nothing is trained, and held-out rows are not read. Writes `benchmarks/results/self_teacher.json`.
The trained run that goes with it is `sdpo, ...` in `multiply-validation.json`.

Dimensions: T positions of an attempt, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import torch
import typer
from quickstart import machine
from torch import Tensor

from preceptor_clients.sdk.context import find_template
from preceptor_clients.sdk.judging import load_judge
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams

HERE: Final = Path(__file__).parent
EXAMPLE: Final = HERE.parent / "examples" / "multiply"
MODEL: Final = HERE.parent / "models" / "smollm2"
GROUP: Final = 4
MAX_TOKENS: Final = 24
WAYS: Final = (("papers", 1.0), ("papers", 0.5), ("sdpo", 1.0), ("sdpo", 0.5))
"""Template and temperature of a teacher."""


@dataclass(frozen=True)
class Shown:
    """The right answer in the teacher's view."""

    text: str
    kind: str = "demonstration"
    expert_may_see: bool = True


class Attempt(NamedTuple):
    """One answer to a row."""

    row: dict[str, Any]
    prompt: list[int]
    response: list[int]
    ended: bool
    right: bool
    text: str


class Student:
    """The model, its draws and its judge."""

    def __init__(self, seed: int) -> None:
        self.policy = Policy(MODEL)
        self._sampler = LocalSampler(
            self.policy.model,
            end_ids=self.policy.end_ids,
            pad_id=self.policy.pad_id,
            vocab_size=self.policy.vocab_size,
        )
        self._judge: Any = load_judge(f"{EXAMPLE / 'judge.py'}:judge")
        self._generator = torch.Generator().manual_seed(seed)

    def attempts(
        self, rows: Sequence[dict[str, Any]], prompts: list[list[int]], temperature: float = 1.0
    ) -> list[Attempt]:
        """One answer to each prompt, judged by its row."""
        params = SamplingParams(temperature=temperature, max_new_tokens=MAX_TOKENS)
        drawn = self._sampler.sample(prompts, params, self._generator)
        found: list[Attempt] = []
        for row, prompt, one in zip(rows, prompts, drawn, strict=True):
            response: list[int] = one.response_ids.tolist()
            text = self.policy.decode(response)
            said = self._judge(row, text)
            right = (said if isinstance(said, float) else said.score) >= 0.5
            found.append(
                Attempt(row, prompt, response, one.finish_reason == "stop", right, text.strip())
            )
        return found

    @torch.no_grad()
    def logprobs(self, prompt: list[int], response: list[int], temperature: float = 1.0) -> Tensor:
        """[T, V] of the next token at every position of a response."""
        model: Any = self.policy.model
        logits_TV = model(
            torch.tensor([[*prompt, *response[:-1]]]), logits_to_keep=len(response)
        ).logits[0]
        return (logits_TV.float() / temperature).log_softmax(-1)

    def end_chance(self, logprobs_TV: Tensor) -> list[float]:
        """[T] chance that the response ends here."""
        return _floats(logprobs_TV[:, sorted(self.policy.end_ids)].exp().sum(-1))


def main(
    rows: Annotated[int, typer.Option(help="Validation rows.")] = 20,
    attempts: Annotated[int, typer.Option(help="Attempts at each, a multiple of 4.")] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option()] = 1,
    out: Annotated[Path, typer.Option()] = HERE / "results" / "self_teacher.json",
) -> None:
    """Measures and writes."""
    torch.set_num_threads(threads)
    student = Student(seed)
    lines = (EXAMPLE / "validation.jsonl").read_text().splitlines()[:rows]
    chosen = [json.loads(line) for line in lines for _ in range(attempts)]
    prompts = [student.policy.encode(_question(row)) for row in chosen]
    made = student.attempts(chosen, prompts)
    taught = with_teacher(made)
    own = [student.logprobs(attempt.prompt, attempt.response) for attempt, _ in taught]
    result: dict[str, Any] = {
        "command": f"python benchmarks/self_teacher.py --rows {rows} --attempts {attempts}",
        "machine": machine(),
        "student": summary(made),
        "attempts with a teacher": len(taught),
        "of these right": sum(attempt.right for attempt, _ in taught),
        "teachers": {},
    }
    for template, temperature in WAYS:
        name = f"{template}, temperature {temperature:g}"
        result["teachers"][name] = measured(student, taught, own, template, temperature)
        print(name, json.dumps(result["teachers"][name]), flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {out}")


def with_teacher(made: Sequence[Attempt]) -> list[tuple[Attempt, str]]:
    """Attempts and the right answer in view: the attempt itself, else the next right sibling."""
    found: list[tuple[Attempt, str]] = []
    for start in range(0, len(made), GROUP):
        group = made[start : start + GROUP]
        for i, attempt in enumerate(group):
            in_order = [*group[i:], *group[:i]]
            right = [one.text for one in in_order if one.right and one.text]
            found += [(attempt, right[0])] if right else []
    return found


def measured(
    student: Student,
    taught: Sequence[tuple[Attempt, str]],
    own: Sequence[Tensor],
    template: str,
    temperature: float,
) -> dict[str, Any]:
    """The teacher by itself, and beside the student."""
    render = find_template(template).render
    prompts = [
        student.policy.encode(render(_question(attempt.row), [Shown(text)]))
        for attempt, text in taught
    ]
    alone = student.attempts([attempt.row for attempt, _ in taught], prompts, temperature)
    gathered: dict[str, list[float]] = {}

    def keep(name: str, values: list[float]) -> None:
        gathered.setdefault(name, []).extend(values)

    for (attempt, _), prompt, p_TV in zip(taught, prompts, own, strict=True):
        q_TV = student.logprobs(prompt, attempt.response, temperature)
        ends = {"student": student.end_chance(p_TV), "teacher": student.end_chance(q_TV)}
        last = len(attempt.response) - 1
        for who, chance in ends.items():
            where = "an end" if attempt.ended else "no end"
            where = "a right end" if attempt.ended and attempt.right else where
            keep(f"chance of the end at {where}, {who}", [chance[last]])
            keep(f"chance of the end before, {who}", chance[:last])
        keep("entropy, student", _floats((-p_TV.exp() * p_TV).sum(-1)))
        keep("entropy, teacher", _floats((-q_TV.exp() * q_TV).sum(-1)))
        keep("KL from teacher to student", _floats((q_TV.exp() * (q_TV - p_TV)).sum(-1)))
    beside = {name: round(float(np.mean(values)), 4) for name, values in sorted(gathered.items())}
    return {"itself": summary(alone), "beside": beside, "answers": [a.text for a in alone[:6]]}


def summary(made: Sequence[Attempt]) -> dict[str, float]:
    """How often right, how long, and how often it ended by itself."""
    return {
        "answers": len(made),
        "right": round(float(np.mean([one.right for one in made])), 4),
        "tokens": round(float(np.mean([len(one.response) for one in made])), 2),
        "ended": round(float(np.mean([one.ended for one in made])), 4),
    }


def _floats(values_T: Any) -> list[float]:
    return values_T.tolist()


def _question(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}]


if __name__ == "__main__":
    typer.run(main)
