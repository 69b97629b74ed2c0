"""Problems of one kind that the untrained student never solves.

They are found by its probability of the known right answers, and then by attempts that are not
counted: none may succeed. The kind is three features or a fold, where such problems are common;
among problems as they come, two in a hundred are never solved.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.experiments.solve.base_rates import LOOK, student_sha256
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.behaviour import Split
from preceptor_trainer.tasks.programming_by_example.problems import Problem, draw_problem, evaluate
from preceptor_trainer.tasks.programming_by_example.universe import Behaviour, load_universe

PROBLEMS_SEED: Final = 11
DRAWS: Final = 8
CHANCE_BELOW: Final = 0.003
ATTEMPTS: Final = 128
AT_ONCE: Final = 32
"""Problems that are scored, or attempted, together."""


@dataclass(frozen=True, kw_only=True)
class NeverSolved:
    """The problems of one split that a student never solved, and the effort to find them."""

    split: Split
    problem_ids: tuple[str, ...]
    chance_below: float
    """Of the student's probability of all known right answers, before any attempt was made."""
    attempts: int
    """Number of attempts, none of which succeeded."""
    student_sha256: str

    def problems(self) -> list[Problem]:
        """The problems, made again.

        Raises:
            ValueError: the generator of problems has changed.
        """
        ids = set(self.problem_ids)
        found: list[Problem] = []
        for some in _candidates(self.split):
            found += [problem for problem in some if problem.id in ids]
            if len(found) >= len(ids):
                return found
        raise ValueError(
            "problem_ids: the generator of problems has changed since these were found"
        )

    def save(self, folder: Path) -> Path:
        """Writes them as JSON; gives the file."""
        return write_whole(path_of(folder, self.split), json.dumps(asdict(self)) + "\n")


def path_of(folder: Path, split: Split) -> Path:
    """Where they stand in a folder."""
    return folder / f"never-solved-{split}.json"


def load_never_solved(folder: Path, *, split: Split) -> NeverSolved:
    """What `save` wrote.

    Raises:
        ValueError: there are none, or they are of another student.
    """
    path = path_of(folder, split)
    if not path.exists():
        raise ValueError(
            f"{path} is missing: `preceptor solve never-solved --split {split} --out {folder}` "
            "makes it"
        )
    value: dict[str, Any] = json.loads(path.read_text())
    value["problem_ids"] = tuple(value["problem_ids"])
    found = NeverSolved(**value)
    if found.student_sha256 != student_sha256(STUDENT_DIR):
        raise ValueError(f"{path}: another student than this one never solved these; remove it")
    return found


def find_never_solved(
    split: Split,
    wanted: int,
    *,
    chance_below: float = CHANCE_BELOW,
    attempts: int = ATTEMPTS,
    on_progress: Callable[[int], None] = lambda found: None,
) -> NeverSolved:
    """`wanted` problems without a success in all attempts, or as many as there are.

    Attempts are only made where the student's chance is small. They are the student's own texts,
    graded here.

    Raises:
        ValueError: `attempts` is not a multiple of `LOOK`.
    """
    if attempts < LOOK or attempts % LOOK:
        raise ValueError(f"attempts: {attempts} is not a multiple of {LOOK}")
    policy = Policy(STUDENT_DIR)
    found: list[str] = []
    unsolved = _unsolved(policy, _unlikely(split, policy, chance_below), attempts)
    for problem in islice(unsolved, wanted):
        found.append(problem.id)
        on_progress(len(found))
    return NeverSolved(
        split=split,
        problem_ids=tuple(found),
        chance_below=chance_below,
        attempts=attempts,
        student_sha256=student_sha256(STUDENT_DIR),
    )


def _unlikely(split: Split, policy: Policy, below: float) -> Iterator[Problem]:
    """Candidates of small chance, each of another behaviour."""
    found: set[Behaviour] = set()
    for some in _candidates(split):
        new = [problem for problem in some if problem.behaviour not in found]
        for problem, chance in zip(new, chances(policy, new), strict=True):
            if chance < below and problem.behaviour not in found:
                found.add(problem.behaviour)
                yield problem


def _candidates(split: Split) -> Iterator[list[Problem]]:
    """Problems of the kind, some at a time, always the same; behaviours return with other inputs.

    What makes a problem hard is also which inputs it shows.
    """
    rng = random.Random(f"{split}:{PROBLEMS_SEED}")
    kind = [b for b in load_universe().in_split(split) if b.num_features == 3 or b.is_fold]
    for _ in range(DRAWS):
        rng.shuffle(kind)
        for start in range(0, len(kind), AT_ONCE):
            drawn = [draw_problem(behaviour, rng) for behaviour in kind[start : start + AT_ONCE]]
            yield [problem for problem in drawn if problem is not None]


def _unsolved(policy: Policy, problems: Iterable[Problem], attempts: int) -> Iterator[Problem]:
    """Those without a success in so many attempts of the student; the first ends them."""
    sampler = LocalSampler(policy.model, end_ids=policy.end_ids, pad_id=policy.pad_id)
    draw = torch.Generator().manual_seed(PROBLEMS_SEED)
    waiting = iter(problems)
    while left := list(islice(waiting, AT_ONCE)):
        for _ in range(attempts // LOOK):
            prompts = [ids for p in left for ids in [policy.encode(p.messages)] * LOOK]
            drawn = [
                policy.decode(generation.response_ids.tolist())
                for generation in sampler.sample(prompts, SamplingParams(), draw)
            ]
            texts = [set(drawn[i * LOOK : (i + 1) * LOOK]) for i in range(len(left))]
            left = [p for p, t in zip(left, texts, strict=True) if not any(map(_solves(p), t))]
            if not left:
                break
        yield from left


def _solves(problem: Problem) -> Callable[[str], bool]:
    """Whether a text of the student's is right."""
    return lambda text: evaluate(text, problem).solved


@torch.inference_mode()
def chances(policy: Policy, problems: Sequence[Problem]) -> list[float]:
    """The student's probability of the known right answers to each problem, all together."""
    rows: list[tuple[int, list[int], int]] = []
    for number, problem in enumerate(problems):
        prompt = policy.encode(problem.messages)
        for text in problem.behaviour.texts:
            rows.append((number, prompt + policy.response_ids(text), len(prompt)))
    if not rows:
        return []
    longest = max(len(ids) for _, ids, _ in rows)
    # The model is causal, so padding after a row does not affect it.
    ids_BT = torch.tensor([ids + [policy.pad_id] * (longest - len(ids)) for _, ids, _ in rows])
    logprobs_BTV = policy.model(input_ids=ids_BT).logits.float().log_softmax(-1)
    logprobs_BT = logprobs_BTV[:, :-1].gather(-1, ids_BT[:, 1:, None])[..., 0]
    found = [0.0] * len(problems)
    for (number, ids, start), logprobs_T in zip(rows, logprobs_BT, strict=True):
        found[number] += float(logprobs_T[start - 1 : len(ids) - 1].sum().exp())
    return found
