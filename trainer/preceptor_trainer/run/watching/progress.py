"""The display of a run's progress.

    with Progress() as progress:
        progress.start(num_steps=40, first_step=0)
        progress.phase("sampling")
        progress.step({"loss": 3.2, "reward": 0.4, ...})

On a terminal: four lines that are redrawn in place. Elsewhere (a file, CI): one line per step, so
that a log reads well and nothing is printed twice. Metrics that a step does not have are left out,
not shown as 0.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from preceptor_trainer.run.evaluations import ALONE, BEFORE

PHASES = {
    "wake": "waking the sampler",
    "sampling": "sampling rollouts",
    "feedback": "running feedback sources",
    "experts": "asking experts",
    "targets": "building targets",
    "sleep": "putting the sampler to sleep",
    "update": "updating the student",
    "publish": "publishing weights",
    "evaluation": "evaluating",
}
NEGATIVE_LOSS = (
    "the loss may be below 0: beside a cross-entropy it has advantages times log-probs, which have "
    "either sign; judge the run by what it solves"
)
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_STEPS = 24
REFRESHES_PER_SECOND = 4


@dataclass
class _State:
    """What the display shows at the moment."""

    num_steps: int = 0
    done: int = 0
    first_step: int = 0
    phase: str = "starting"
    evaluation: tuple[str, int, int] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    solved: deque[float] = field(default_factory=lambda: deque[float](maxlen=SPARKLINE_STEPS))
    before: float | None = None
    explained: bool = False


class Progress:
    """Shows one run's progress on a terminal, or logs it line by line.

    Args:
        console: where to; standard output if not given. `Console(quiet=True)` shows nothing.
        clock: seconds, monotonic.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._began = clock()
        self._train_began: float | None = None
        self._state = _State()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
                get_renderable=self._render,
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the display; what was printed above it stays."""
        if self._live:
            self._live.stop()

    def start(self, num_steps: int, first_step: int) -> None:
        """Sets the number of steps, and how many of them earlier lineages took."""
        self._state = _State(num_steps=num_steps, first_step=first_step, done=first_step)
        if first_step:
            self.message(f"continuing after step {first_step}/{num_steps}")

    def phase(self, name: str) -> None:
        """Sets the phase that is shown; one of `PHASES`, or any other short text."""
        if self._train_began is None and name == "sampling":
            self._train_began = self._clock()  # the first evaluation is not a step
        self._state.phase = name
        if name != "evaluation":
            self._state.evaluation = None

    def step(self, metrics: Mapping[str, float]) -> None:
        """Shows a finished step by its metrics."""
        state = self._state
        state.done += 1
        if metrics.get("loss", 0.0) < 0 and not state.explained:
            state.explained = True
            self.message(NEGATIVE_LOSS)
        state.metrics = metrics
        if "reward" in metrics:
            state.solved.append(metrics["reward"])
        if self._live is None:
            parts = [
                f"step {state.done}/{state.num_steps}",
                *_shown(metrics, *FIGURES),
                self._times(),
            ]
            self._print(Text("  ".join(parts)))

    def evaluation(self, label: str, done: int, total: int) -> None:
        """Shows how far an evaluation has come, in problems."""
        first = self._state.evaluation is None or self._state.evaluation[0] != label
        self._state.phase, self._state.evaluation = "evaluation", (label, done, total)
        if self._live is None and (first or done == total):
            self._print(Text(f"{_titled('evaluation', label)}: {done}/{total} problems"))

    def result(self, label: str, pass_at_1: float, num_ungraded: int = 0) -> None:
        """Reports a finished evaluation; `before` stays in view during training."""
        if label == BEFORE:
            self._state.before = pass_at_1
        missing = f", {num_ungraded} samples were not graded" if num_ungraded else ""
        self.message(f"{_titled('evaluation', label)}: pass@1 {_percent(pass_at_1)}{missing}")

    def message(self, text: str) -> None:
        """Prints a line that stays, above the display. The text is not read as markup."""
        self._print(Text(text))

    def _print(self, text: Text) -> None:
        # soft_wrap: a line of a log is never broken, whatever terminal width CI reports
        self._console.print(text, soft_wrap=self._live is None, highlight=False)

    def _times(self) -> str:
        elapsed = f"{_duration(self._clock() - self._began)} elapsed"
        remaining = self._remaining()
        return elapsed if remaining is None else f"{elapsed}, about {_duration(remaining)} left"

    def _remaining(self) -> float | None:
        """Seconds left of training, estimated from this lineage's own steps."""
        taken = self._state.done - self._state.first_step
        left = self._state.num_steps - self._state.done
        if self._train_began is None or taken == 0 or left <= 0:
            return None
        return (self._clock() - self._train_began) / taken * left

    def _render(self) -> RenderableType:
        width = min(self._console.width, 100)
        top = Table.grid(expand=True)
        top.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        top.add_column(no_wrap=True, justify="right")
        top.add_row(self._headline(), Text(self._times(), style="dim"))
        done, total = self._share()
        frame = Table.grid(expand=False)
        frame.width = width
        frame.add_row(top)
        frame.add_row(
            ProgressBar(total=max(total, 1), completed=done, finished_style="bar.complete")
        )
        frame.add_row(self._solved())
        frame.add_row(self._figures())
        return frame

    def _headline(self) -> Text:
        state = self._state
        doing = PHASES.get(state.phase, state.phase)
        if state.evaluation:
            label, done, total = state.evaluation
            doing = f"{_titled('evaluating', label)}: {done}/{total} problems"
        step = f"step {state.done}/{state.num_steps}" if state.num_steps else "preceptor"
        return Text.assemble((step, "bold"), "  ", (doing, "cyan"))

    def _share(self) -> tuple[int, int]:
        if self._state.evaluation:
            return self._state.evaluation[1:]
        return self._state.done, self._state.num_steps

    def _solved(self) -> Text:
        state = self._state
        parts = _shown(state.metrics, "reward", "unjudged")
        if len(state.solved) > 1:
            parts.append(sparkline(state.solved))
        if state.before is not None:
            parts.append(f"held-out pass@1 before {_percent(state.before)}")
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")

    def _figures(self) -> Text:
        parts = _shown(self._state.metrics, "loss", "with_teacher", "response_length")
        return Text("  ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")


def _titled(doing: str, label: str) -> str:
    return doing if label == ALONE else f"{doing} {label}"


def sparkline(values: Sequence[float] | deque[float]) -> str:
    """One block per value, over the range of the values but at least a tenth.

    Without that least range the noise of a flat curve would look like mountains.
    """
    middle, reach = (min(values) + max(values)) / 2, max(max(values) - min(values), 0.1)
    top = len(SPARKS) - 1
    return "".join(SPARKS[round(((v - middle) / reach + 0.5) * top)] for v in values)


FIGURES: dict[str, Callable[[float], str]] = {
    "reward": lambda v: f"solved {_percent(v)}",
    "unjudged": lambda v: f"{v:.0f} not judged",
    "loss": lambda v: f"loss {v:.3g}",
    "with_teacher": lambda v: f"with a teacher {v * 100:.0f} %",
    "response_length": lambda v: f"length {v:.1f}",
}


def _shown(metrics: Mapping[str, float], *names: str) -> list[str]:
    return [FIGURES[name](metrics[name]) for name in names if name in metrics]


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
