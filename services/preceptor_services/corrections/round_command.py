"""Shell commands for rounds: rules, progress, closing and opening.

preceptor corrections round set demo-0 --guidelines @guide.md --double-share 0.2 --review always
preceptor corrections round list
preceptor corrections round close demo-0
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from preceptor_clients.contract.corrections import ReviewRule, Round, RoundSettings
from preceptor_clients.contract.errors import NotFound, from_validation
from preceptor_clients.http.corrections import CorrectionsClient
from preceptor_services.corrections.place import KeyFile, RunDir, Url, do

app = typer.Typer(help="Queues and their rules.", no_args_is_help=True)

RoundName = Annotated[str, typer.Argument(metavar="ROUND", help="Its name.")]


@app.command("list")
def list_rounds(run_dir: RunDir = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Prints every round with its rules and counts, newest first."""
    for found in do(run_dir, url, key_file, lambda client: client.rounds()):
        counts = found.counts
        typer.echo(
            f"{_described(found)}; {counts.open} open, {counts.claimed} in work, "
            f"{counts.review} in review, {counts.done + counts.ended} settled"
        )


@app.command("set")
def set_round(
    name: RoundName,
    guidelines: Annotated[
        str | None, typer.Option(help="Text in Markdown, or @FILE to read it from a file.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Largest number of items in the round.")
    ] = None,
    no_budget: Annotated[bool, typer.Option("--no-budget", help="Takes any number.")] = False,
    double_share: Annotated[
        float | None, typer.Option(help="Share of items that two people work on, 0 to 1.")
    ] = None,
    review: Annotated[
        str | None,
        typer.Option(help=f"Items that a reviewer must decide: {', '.join(get_args(ReviewRule))}."),
    ] = None,
    lease_s: Annotated[
        float | None, typer.Option(help="Length of a claim's lease in seconds.")
    ] = None,
    max_skips: Annotated[
        int | None, typer.Option(help="Number of skips after which an item goes to a reviewer.")
    ] = None,
    rejoin_tokens: Annotated[
        int | None,
        typer.Option(
            help="Equal tokens in a row after which an edited text counts as joined with the "
            "response again; fixed from the first item on."
        ),
    ] = None,
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Creates a round, or changes the given rules and leaves the others."""
    if no_budget and budget is not None:
        raise typer.BadParameter("cannot be given together with --no-budget", param_hint="--budget")
    try:
        given = _given(
            guidelines=None if guidelines is None else _text(guidelines),
            budget=budget,
            double_share=double_share,
            review=review,
            lease_s=lease_s,
            max_skips=max_skips,
            edits=_given(rejoin_tokens=rejoin_tokens) or None,
        )
        # Checked before the gateway is called, so that an error names the option.
        RoundSettings.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(from_validation(error).detail) from None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if no_budget:
        given["budget"] = None
    made = do(run_dir, url, key_file, lambda client: _change(client, name, given))
    typer.echo(_described(made))


@app.command("close")
def close(
    name: RoundName, run_dir: RunDir = None, url: Url = None, key_file: KeyFile = None
) -> None:
    """Stops giving out items of a round; claimed items can still be handed in."""
    typer.echo(_described(_switch(run_dir, url, key_file, name, closed=True)))


@app.command("open")
def open_again(
    name: RoundName, run_dir: RunDir = None, url: Url = None, key_file: KeyFile = None
) -> None:
    """Opens a closed round again."""
    typer.echo(_described(_switch(run_dir, url, key_file, name, closed=False)))


def _switch(
    run_dir: Path | None, url: str | None, key_file: Path | None, name: str, *, closed: bool
) -> Round:
    return do(
        run_dir, url, key_file, lambda c: _change(c, name, {"closed": closed}, must_exist=True)
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _text(given: str) -> str:
    return Path(given[1:]).read_text(encoding="utf-8-sig") if given.startswith("@") else given


async def _change(
    client: CorrectionsClient, name: str, given: dict[str, Any], *, must_exist: bool = False
) -> Round:
    rounds = {found.name: found.settings for found in await client.rounds()}
    if must_exist and name not in rounds:
        raise NotFound(f"no round {name!r}; there are {', '.join(rounds) or 'none'}", field="round")
    settings = rounds.get(name, RoundSettings()).model_dump()
    edits = settings["edits"] | given.get("edits", {})
    changed = RoundSettings.model_validate(settings | given | {"edits": edits})
    return await client.put_round(name, changed)


def _described(made: Round) -> str:
    rules = made.settings
    budget = "any number of items" if rules.budget is None else f"{rules.budget} items"
    guide = f"{len(rules.guidelines)} characters of guidelines" if rules.guidelines else "none"
    return (
        f"{made.name} is {'closed' if rules.closed else 'open'}: {budget}, "
        f"double share {rules.double_share:g}, review {rules.review}, guidelines: {guide}, "
        f"lease {rules.lease_s:g} s, {rules.max_skips} skips, {rules.edits}"
    )
