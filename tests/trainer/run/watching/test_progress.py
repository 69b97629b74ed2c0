import io

from rich.console import Console

from preceptor_trainer.run.watching.progress import SPARKS, Progress, sparkline

METRICS = {
    "reward": 0.4125,
    "loss": 3.214,
    "with_teacher": 0.78,
    "response_length": 14.23,
    "entropy": 0.4,
}


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def log_file() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def frame(progress: Progress, console: Console) -> list[str]:
    lines = console.render_lines(progress._render())  # pyright: ignore[reportPrivateUsage]
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_a_log_gets_one_line_a_step() -> None:
    console, clock = log_file(), Clock()
    with Progress(console, clock) as progress:
        progress.start(num_steps=3, first_step=0)
        for _ in range(3):
            progress.phase("sampling")
            clock.now += 10
            progress.phase("update")
            progress.step(METRICS)

    assert written(console).splitlines() == [
        "step 1/3  solved 41.2 %  loss 3.21  with a teacher 78 %  length 14.2  "
        "0:10 elapsed, about 0:20 left",
        "step 2/3  solved 41.2 %  loss 3.21  with a teacher 78 %  length 14.2  "
        "0:20 elapsed, about 0:10 left",
        "step 3/3  solved 41.2 %  loss 3.21  with a teacher 78 %  length 14.2  0:30 elapsed",
    ]


def test_a_log_gets_the_beginning_and_the_end_of_an_evaluation() -> None:
    console = log_file()
    with Progress(console) as progress:
        progress.start(num_steps=3, first_step=0)
        for done in (32, 64, 96):
            progress.evaluation("before", done, 96)
        progress.result("before", 0.345)

    assert written(console).splitlines() == [
        "evaluation before: 32/96 problems",
        "evaluation before: 96/96 problems",
        "evaluation before: pass@1 34.5 %",
    ]


def test_a_metric_that_a_step_lacks_is_left_out() -> None:
    console = log_file()
    with Progress(console) as progress:
        progress.start(num_steps=3, first_step=0)
        progress.step({"reward": 0.5})

    assert "solved 50.0 %" in written(console)
    assert "loss" not in written(console)


def test_the_time_of_the_first_evaluation_is_not_counted_as_step_time() -> None:
    console, clock = log_file(), Clock()
    with Progress(console, clock) as progress:
        progress.start(num_steps=3, first_step=0)
        clock.now += 1000
        progress.phase("sampling")
        clock.now += 10
        progress.step({})

    assert written(console) == "step 1/3  16:50 elapsed, about 0:20 left\n"


def test_a_resumed_run_counts_from_where_it_stood() -> None:
    console = log_file()
    with Progress(console) as progress:
        progress.start(num_steps=40, first_step=20)
        progress.step({})

    assert written(console).startswith("continuing after step 20/40\nstep 21/40")


def test_a_message_is_text_and_no_markup() -> None:
    console = log_file()
    with Progress(console) as progress:
        progress.message("[red]x[1:][/nothing]")

    assert written(console) == "[red]x[1:][/nothing]\n"


def test_the_display_fits_eighty_columns_and_keeps_its_height() -> None:
    console, clock = terminal(80), Clock()
    progress = Progress(console, clock)
    progress.start(num_steps=400, first_step=0)
    progress.result("before", 0.333)
    empty = frame(progress, console)
    for _ in range(30):
        progress.phase("sampling")
        clock.now += 100
        progress.step(METRICS)
    progress.phase("feedback")
    full = frame(progress, console)

    assert len(empty) == len(full) == 4
    assert max(len(line) for line in full) <= 80
    assert "…" not in "".join(full)
    assert full[0].startswith("step 30/400  running feedback sources")
    assert full[0].endswith("50:00 elapsed, about 10:16:40 left")
    assert "held-out pass@1 before 33.3 %" in full[2]


def test_a_terminal_is_left_with_the_messages_only() -> None:
    console = terminal()
    with Progress(console) as progress:
        progress.start(num_steps=2, first_step=0)
        progress.step(METRICS)
        progress.message("a line that stays")

    assert written(console).count("a line that stays") == 1
    # the display erases itself: after the last cursor movement nothing of it is drawn again
    assert "step 1/2" not in written(console).rsplit("\x1b[2K", 1)[-1]


def test_the_sparkline_spans_its_values() -> None:
    assert sparkline([0.0, 1.0]) == SPARKS[0] + SPARKS[-1]


def test_the_sparkline_does_not_make_mountains_of_noise() -> None:
    line = sparkline([0.500, 0.505, 0.495])

    assert set(line) <= set(SPARKS[3:5])


def test_a_negative_loss_is_explained_once() -> None:
    console = log_file()
    with Progress(console) as progress:
        progress.start(num_steps=3, first_step=0)
        for loss in (0.5, -0.25, -0.5):
            progress.step(METRICS | {"loss": loss})

    text = " ".join(written(console).split())
    assert text.count("the loss may be below 0") == 1
    assert text.index("step 1/3") < text.index("the loss may be below 0") < text.index("step 2/3")
