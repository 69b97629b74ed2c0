"""The gradient with an expert's top k ids instead of its whole distribution.

In one position the full gradient of forward CE by the logits is pi - q. On a support S of k ids,
with masses Q and Pi of teacher and student on it, it becomes

    tail          pi - q on S,  pi (1 - (1-Q)/(1-Pi)) outside     the rest is one more token
    renormalised  pi/Pi - q/Q on S,  0 outside                    both on S
    dropped       Q pi - q on S,  Q pi outside                    the rest of the sum is left out

Only the tail form keeps the mass of S and of the rest at the teacher's. Dropping it has its rest at
q/Q on S and nothing outside: all other tokens are unlearnt. S is the expert's top k, which a server
returns, or the student's own, as in released code: the latter cannot raise a token that the student
finds improbable. `DistIL` takes the expert's ids and the tail; `Divergence` has both
supports, with tail or renormalised; `dropped` is in neither.

Two constructed teachers. The flat one is a shifted power law, q_i ~ (i + 33)^-2 over 1000 ids: 5.2
nats. The peaked one has .753, .168 and .038 on three ids and the rest spread over 1997; its second
favourite is the student's 1937th. Students are the teacher's log-probs (of the flat one: times 0.7)
plus normal noise of 1.2 (flat) and 0.3 (peaked).

Dimensions: D draws of the student, V ids.
"""

from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import softmax
from preceptor_trainer.theory.enumeration import Floats, TinyWorld, expected_gradient, table_target
from preceptor_trainer.theory.finding import Chart, Finding

Mask: TypeAlias = NDArray[np.bool_]
Whose: TypeAlias = Literal["expert's", "student's"]
Rest: TypeAlias = Literal["tail", "renormalised", "dropped"]
WHOSE: Final[tuple[Whose, ...]] = ("expert's", "student's")
RESTS: Final[tuple[Rest, ...]] = ("tail", "renormalised", "dropped")
SIZES: Final = (5, 20, 100)
FIGURE_SIZES: Final = (2, 5, 10, 20, 35, 50, 75, 100)
DRAWS, FITTED_DRAWS, SEED, FITTED_SIZE, STEPS, RATE = 8, 4, 0, 20, 1000, 6.0
FAVOURITE, ITS_RANK = 1, 1937


def flat_teacher() -> Floats:
    """[V] a shifted power law."""
    q = (np.arange(1, 1001) + 33.0) ** -2
    return q / q.sum()


def flat_students(q: Floats) -> Floats:
    """[D, V] log-probs up to a constant."""
    noise = np.random.default_rng(SEED).normal(size=(DRAWS, len(q)))
    return 0.7 * np.log(q) + 1.2 * noise


def peaked_teacher() -> Floats:
    """[V] three favourites, and little for the others."""
    favourites = np.array([0.753, 0.168, 0.038])
    others = softmax(np.random.default_rng(SEED).normal(size=1997))
    return np.concatenate([favourites, (1 - favourites.sum()) * others])


def peaked_students(q: Floats) -> Floats:
    """[D, V] log-probs up to a constant; the second favourite is moved down to its rank."""
    logits = np.log(q) + 0.3 * np.random.default_rng(SEED).normal(size=(DRAWS, len(q)))
    others = -np.sort(-np.delete(logits, FAVOURITE, 1), 1)
    logits[:, FAVOURITE] = others[:, ITS_RANK - 2 : ITS_RANK].mean(1)
    return logits


def support(whose: Whose, pi: Floats, q: Floats, k: int) -> Mask:
    """[D, V] the k most probable ids of the one or the other."""
    probs = np.broadcast_to(q, pi.shape) if whose == "expert's" else pi
    chosen = np.zeros(pi.shape, np.bool_)
    np.put_along_axis(chosen, np.argpartition(-probs, k - 1, axis=-1)[:, :k], True, -1)
    return chosen


def gradient(pi: Floats, q: Floats, chosen: Mask, rest: Rest) -> Floats:
    """[D, V] gradient of truncated forward CE by the logits."""
    teacher, student = np.where(chosen, q, 0.0), np.where(chosen, pi, 0.0)
    mass, own_mass = teacher.sum(-1, keepdims=True), student.sum(-1, keepdims=True)
    if rest == "tail":
        return np.where(chosen, pi - q, pi * (1 - (1 - mass) / (1 - own_mass)))
    if rest == "renormalised":
        return student / own_mass - teacher / mass
    return mass * pi - teacher


def cost(q: Floats, chosen: Mask, rest: Rest) -> float:
    """Nats that the form charges a student who equals the teacher."""
    head = q[chosen]
    if rest == "renormalised":
        head = head / head.sum()
    if rest == "tail" and not chosen.all():
        head = np.append(head, 1 - head.sum())
    return -float((head * np.log(head)).sum())


def cosines(pi: Floats, q: Floats, k: int, whose: Whose, rest: Rest) -> Floats:
    """[D] with the full gradient."""
    return _cosines(gradient(pi, q, support(whose, pi, q, k), rest), pi - q)


def own_cosines(logits: Floats, q: Floats, k: int) -> Floats:
    """[D] the same of `DistIL` itself."""
    gradients = np.stack([own_gradient(DistIL(future="none"), row, q, k) for row in logits])
    return _cosines(gradients, softmax(logits) - q)


def own_gradient(objective: DistIL, logits: Floats, q: Floats, k: int) -> Floats:
    """[V] gradient of the trainer's objective in one position."""
    world = TinyWorld(num_tokens=len(q), horizon=1)
    target = table_target(world, "r", (0,), q[None], k)
    row = TrainRollout(rollout_id="r", group=0, prompt_ids=[0], response_ids=(0,), target=target)
    return expected_gradient(objective, logits[None], [[row]], np.ones(1))[0]


def fitted(logits: Floats, q: Floats, k: int, whose: Whose, rest: Rest) -> Floats:
    """[D, V] student after descent on free logits; its own support is chosen anew every step."""
    for _ in range(STEPS):
        pi = softmax(logits)
        logits = logits - RATE * gradient(pi, q, support(whose, pi, q, k), rest)
    return softmax(logits)


def total_variation(pi: Floats, q: Floats) -> float:
    """Mean over the draws."""
    return float(0.5 * np.abs(pi - q).sum(-1).mean())


def _cosines(a: Floats, b: Floats) -> Floats:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def flat_numbers() -> dict[str, float]:
    """Cosines of every form, and the objective's own."""
    q = flat_teacher()
    logits = flat_students(q)
    pi = softmax(logits)
    numbers = {
        "flat teacher: entropy, nats": -float((q * np.log(q)).sum()),
        "flat teacher: mass of its top 20": float(q[:20].sum()),
    }
    deviation = dict[str, float]()
    for k in SIZES:
        found = {
            f"flat, {whose} {k} ids, {rest}: cosine": cosines(pi, q, k, whose, rest)
            for whose in WHOSE
            for rest in RESTS
        }
        numbers |= {name: float(per_student.mean()) for name, per_student in found.items()}
        largest = max(per_student.std() for per_student in found.values())
        deviation[f"flat, {k} ids: largest deviation of these over students"] = float(largest)
    own = own_cosines(logits, q, FITTED_SIZE)
    numbers["flat, expert's 20 ids, the trainer's DistIL: cosine"] = float(own.mean())
    return numbers | deviation


def fit_numbers() -> dict[str, float]:
    """Where descent on every form ends."""
    q = flat_teacher()
    logits = flat_students(q)[:FITTED_DRAWS]
    numbers = {"flat, before fitting: total variation": total_variation(softmax(logits), q)}
    for whose in WHOSE:
        for rest in RESTS:
            pi = fitted(logits, q, FITTED_SIZE, whose, rest)
            chosen = support(whose, pi, q, FITTED_SIZE)
            case = f"flat, fitted on {whose} {FITTED_SIZE} ids, {rest}"
            numbers[f"{case}: total variation"] = total_variation(pi, q)
            mass = np.where(chosen, pi, 0.0).sum(-1).mean()
            numbers[f"{case}: student's mass on them"] = float(mass)
    return numbers


def peaked_numbers() -> dict[str, float]:
    """The effect of each support on a likely token that the student finds improbable."""
    q = peaked_teacher()
    pi = softmax(peaked_students(q))
    numbers = {"peaked teacher: mass of its top 20": float(np.sort(q)[-20:].sum())}
    cases: list[tuple[Whose, int]] = [("expert's", 5), *(("student's", k) for k in SIZES)]
    for whose, k in cases:
        pull = -gradient(pi, q, support(whose, pi, q, k), "tail")[:, FAVOURITE]
        case = f"peaked, {whose} {k} ids, tail"
        numbers[f"{case}: cosine"] = float(cosines(pi, q, k, whose, "tail").mean())
        numbers[f"{case}: pull on the unknown favourite"] = float(pull.mean())
    return numbers


def cost_numbers() -> dict[str, float]:
    """The cost that earlier tokens are charged for a matched position."""
    numbers: dict[str, float] = {}
    for name, q in (("flat", flat_teacher()), ("peaked", peaked_teacher())):
        numbers[f"{name}, matched, all ids: cost"] = cost(q, np.ones(len(q), np.bool_), "tail")
        chosen = support("expert's", q[None], q, FITTED_SIZE)[0]
        for rest in RESTS:
            numbers[f"{name}, matched, expert's 20 ids, {rest}: cost"] = cost(q, chosen, rest)
    return numbers


def finding() -> Finding:
    """Cosines, fits, the unknown favourite, and the costs; cosines over k as a figure."""
    q = flat_teacher()
    pi = softmax(flat_students(q))
    lines: dict[str, list[float]] = {
        f"{whose} ids, {rest}": [float(cosines(pi, q, k, whose, rest).mean()) for k in FIGURE_SIZES]
        for whose in WHOSE
        for rest in RESTS[:2]
    }
    return Finding(
        numbers=flat_numbers() | fit_numbers() | peaked_numbers() | cost_numbers(),
        chart=Chart(
            x_label="ids in the support (flat teacher)",
            y_label="cosine with the full gradient",
            x=[float(k) for k in FIGURE_SIZES],
            lines=lines,
        ),
    )
