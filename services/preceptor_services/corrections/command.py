"""Shell commands of the correction queue: people, items added by hand, export, import.

    preceptor corrections people add ann --url http://127.0.0.1:8080 --key-file keys/admin.key
    preceptor corrections round set chosen --guidelines @guide.md --double-share 0.2
    preceptor corrections send chosen --rollout demo-l0-3-0-1 --rollout demo-l0-3-4-0
    preceptor corrections send production --file logs.jsonl
    preceptor corrections export --round demo-0 > corrections.jsonl
    preceptor corrections import corrections.jsonl --round old
    preceptor corrections people retire ann --reason "wrong guidelines"

`--run-dir` takes address and key from a deployment's `resolved.toml` or `preceptor.toml`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from pydantic import BaseModel
from rich.table import Table

from preceptor_clients.contract.corrections import (
    ExportLine,
    NewItem,
    Retirement,
    Role,
    TakenItem,
    carried_rules,
)
from preceptor_clients.contract.json_lines import read_lines
from preceptor_clients.http.corrections import CorrectionsClient
from preceptor_services.corrections import round_command
from preceptor_services.corrections.place import (
    KeyFile,
    Place,
    RunDir,
    Url,
    at,
    do,
    place_or_exit,
)
from preceptor_services.kit.consoles import console_for_tables

_AT_ONCE: Final = 50
_Message = TypeVar("_Message", bound=BaseModel)

app = typer.Typer(
    help="People, rounds, export and import of human corrections.", no_args_is_help=True
)
people = typer.Typer(help="Who may correct.", no_args_is_help=True)
app.add_typer(people, name="people")
app.add_typer(round_command.app, name="round")

Round = Annotated[str | None, typer.Option("--round", help="Of one round only.")]


# ---------------------------------------------------------------- people


@people.command("list")
def list_people(run_dir: RunDir = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Prints every person."""
    table = Table("name", "role", "key", "corrections")
    for person in do(run_dir, url, key_file, lambda client: client.people()):
        key = "revoked" if person.revoked_at is not None else "valid"
        counts = "retired" if person.retired_at is not None else "count"
        table.add_row(person.name, person.role, key, counts)
    console_for_tables().print(table)


@people.command("add")
def add_person(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    role: Annotated[str, typer.Option(help="annotator, reviewer or admin.")] = "annotator",
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Adds a person and prints their key, which is shown only once."""
    if role not in ("annotator", "reviewer", "admin"):
        raise typer.BadParameter(f"{role!r} is not a role", param_hint="--role")
    chosen: Role = role  # type: ignore[assignment]  checked above
    place = place_or_exit(run_dir, url, key_file)
    _hand_over(name, at(place, lambda client: client.add_person(name, chosen)).key, place)


@people.command("new-key")
def new_key(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Prints a new key; the old one becomes invalid."""
    place = place_or_exit(run_dir, url, key_file)
    _hand_over(name, at(place, lambda client: client.new_key(name)).key, place)


def _hand_over(name: str, key: str, place: Place) -> None:
    """Prints the key alone on standard output, for scripts; instructions on standard error."""
    typer.echo(key)
    typer.echo(
        f"{name} signs in with this key, which is shown only once, at {place.page}", err=True
    )


@people.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Revokes a person's key; the versions that they handed in stay."""
    do(run_dir, url, key_file, lambda client: client.revoke_key(name))
    typer.echo(f"{name}'s key is revoked")


@people.command("retire")
def retire(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Retires a person's corrections; prints the targets that they had gone into."""
    _show(do(run_dir, url, key_file, lambda client: client.retire(name, reason)))


def _show(found: Retirement) -> None:
    console = console_for_tables()
    console.print(
        f"{found.person}: {len(found.versions)} versions retired, {found.reopened} items went back"
    )
    table = Table("target", "run", "trained on in", "without them")
    for target in found.targets:
        used = ", ".join(target.consumed_by) or "never"
        table.add_row(target.target_id, target.run, used, target.rebuilt_as or "nothing is left")
    if found.targets:
        console.print(table)
    console.print(f"runs that trained on them: {', '.join(found.runs) or 'none'}")


# ---------------------------------------------------------------- by hand


@app.command("send")
def send(
    round_name: Annotated[
        str, typer.Argument(metavar="ROUND", help="The round; created if it does not exist.")
    ],
    rollout: Annotated[
        list[str] | None, typer.Option(help="Id of a recorded rollout; may be repeated.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Responses from outside any run, one JSON object per line.")
    ] = None,
    priority: Annotated[
        float, typer.Option(help="Priority of the rollouts; higher is given out first.")
    ] = 0,
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Puts chosen responses into a round: recorded rollouts, responses from elsewhere, or both."""
    if not rollout and file is None:
        raise typer.BadParameter("nothing was chosen: give --rollout, --file or both")

    async def put(client: CorrectionsClient) -> list[TakenItem]:
        # Read before anything is sent: a wrong line must not leave half of the items in the queue.
        new = _read(file, NewItem) if file is not None else []
        taken: list[TakenItem] = []
        for start in range(0, len(rollout or ()), _AT_ONCE):
            chosen = (rollout or [])[start : start + _AT_ONCE]
            taken += await client.add_rollouts(round_name, chosen, priority)
        for start in range(0, len(new), _AT_ONCE):
            taken += await client.add_items(round_name, new[start : start + _AT_ONCE])
        return taken

    states = Counter(item.state for item in do(run_dir, url, key_file, put))
    typer.echo(
        f"{states['new']} items are new, {states['known']} were known, "
        f"{states['over_budget']} are over the round's budget"
    )


def _read(file: Path, cls: type[_Message]) -> list[_Message]:
    """A file's lines as messages of one type; an error names the wrong line."""
    found: list[_Message] = []
    for number, text in read_lines(file):
        try:
            found.append(cls.model_validate_json(text))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    return found


# ---------------------------------------------------------------- JSONL


@app.command("export")
def export(
    round_name: Round = None,
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Prints every item with its whole history, one JSON object per line."""

    async def write(client: CorrectionsClient) -> None:
        async for line in client.export(round_name):
            # As bytes: an export is UTF-8 with one kind of line end on every platform.
            typer.echo(line.model_dump_json(exclude_none=True).encode())

    do(run_dir, url, key_file, write)


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(help="File with the output of `export`.")],
    round_name: Annotated[str, typer.Option("--round", help="Where the items go.")],
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Adds items and versions that are missing; unknown people are added without a key."""

    async def read(client: CorrectionsClient) -> tuple[int, int]:
        lines = _read(file, ExportLine)
        carried_rules(lines)  # Refused before anything is sent.
        new = [0, 0]
        for start in range(0, len(lines), _AT_ONCE):
            taken = await client.import_lines(round_name, lines[start : start + _AT_ONCE])
            new[0] += taken.items
            new[1] += taken.versions
        return new[0], new[1]

    num_items, num_versions = do(run_dir, url, key_file, read)
    typer.echo(f"{num_items} items and {num_versions} versions are new")


@app.command("agreement")
def agreement(
    round_name: Annotated[str, typer.Argument(metavar="ROUND", help="The round's name.")],
    run_dir: RunDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Prints the agreement of a round's people."""
    found = do(run_dir, url, key_file, lambda client: client.agreement(round_name))
    typer.echo(found.model_dump_json(indent=1))
