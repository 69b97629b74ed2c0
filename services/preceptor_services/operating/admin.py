"""`preceptor admin`: keys, the audit log, dead jobs, wrong feedback, backup and restore.

preceptor admin rotate trainer --grace-s 86400
preceptor admin audit
preceptor admin dead
preceptor admin replay JOB
preceptor admin retire ITEM --reason "the tests were wrong"
preceptor admin backup /backups/2027-01-01
preceptor admin restore /backups/2027-01-01 --config new/preceptor.toml
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from rich.table import Table

from preceptor_clients.cli.main import fail_with
from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.operations import (
    AuditEntry,
    AuditPage,
    DeadJob,
    DeadJobs,
    Replayed,
    RetiredItem,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.kit.consoles import console_for_tables
from preceptor_services.kit.settings import find_settings, load_settings, read_secret
from preceptor_services.operating.backup import back_up
from preceptor_services.operating.backup import restore as restore_backup
from preceptor_services.operating.place import Config, Url
from preceptor_services.provenance.audit import first_fault
from preceptor_services.registry.secrets import rotate as rotate_file
from preceptor_services.registry.sign_in import write_sign_in

app: Final = typer.Typer(
    help="Keys, audit log, dead jobs, wrong feedback, backup and restore.", no_args_is_help=True
)
AdminKey = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with a key of scope admin; default: of the settings."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
_T = TypeVar("_T")


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="Name of the key, as in [keys.NAME].")],
    grace_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds for which the old secret stays valid.")
    ] = 86_400.0,
    drop_previous: Annotated[
        bool, typer.Option(help="End a secret that an earlier rotation left valid.")
    ] = False,
    config: Config = None,
) -> None:
    """Gives a key a new secret; the old one is valid for the grace time, without a restart."""
    settings = _settings(config)
    key = settings.keys.get(name)
    if key is None:
        raise fail_with(f"name: there is no key {name!r}; there are {', '.join(settings.keys)}")
    try:
        rotate_file(key.file, grace_s, time.time(), drop_previous=drop_previous)
    except (OSError, ValueError) as error:
        raise fail_with(str(error)) from None
    try:
        write_sign_in(name, key)
    except (OSError, ValueError) as error:
        raise fail_with(
            f"{key.file} has a new secret, but {error}; mend that, then `preceptor deploy keys` "
            "writes the file by which people sign in"
        ) from None
    typer.echo(f"{key.file} has a new secret; give it to everybody who uses the key {name},")
    typer.echo(f"and restart them. The old one is valid for {grace_s:g} s more.")


@app.command()
def audit(
    config: Config = None, url: Url = None, key_file: AdminKey = None, as_json: AsJson = False
) -> None:
    """Prints who did what, and checks that no entry was changed or removed."""
    entries = _at(config, url, key_file, _all_entries)
    table = Table("number", "when", "who", "what", "to", "detail")
    for entry in entries:
        if as_json:
            typer.echo(entry.model_dump_json())
        facts = ", ".join(f"{name} {value}" for name, value in entry.detail.items())
        acted = (entry.actor, entry.action, entry.subject, facts)
        table.add_row(str(entry.number), _when(entry.at), *acted)
    if not as_json:
        console_for_tables().print(table)
    fault = first_fault(entries)
    if fault is not None:
        raise fail_with(f"the audit log is damaged: {fault}")


@app.command()
def dead(
    config: Config = None, url: Url = None, key_file: AdminKey = None, as_json: AsJson = False
) -> None:
    """Prints the jobs that were given up, with the reasons."""
    jobs = _at(config, url, key_file, _all_dead)
    table = Table("job", "service", "kind", "questions", "since", "reason")
    for job in jobs:
        if as_json:
            typer.echo(job.model_dump_json(exclude_none=True))
        reason = "" if job.reason is None else job.reason.detail
        asked = (job.service, job.kind, str(job.questions))
        table.add_row(job.job_id, *asked, _when(job.created_at), reason)
    if not as_json:
        console_for_tables().print(table)


@app.command()
def replay(
    job: Annotated[str, typer.Argument(help="Id of the job, as `preceptor admin dead` prints it.")],
    config: Config = None,
    url: Url = None,
    key_file: AdminKey = None,
) -> None:
    """Asks the questions of a dead job again; their tickets wait for the answers again."""

    async def ask_again(gateway: GatewayClient) -> Replayed:
        return await gateway.call("POST", f"/v1/jobs/{job}/replay", reply=Replayed)

    replayed = _at(config, url, key_file, ask_again)
    typer.echo(f"{replayed.job_id}: {replayed.questions} questions are asked again")


@app.command()
def retire(
    item: Annotated[str, typer.Argument(help="Id of a feedback item.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    superseded_by: Annotated[
        str | None, typer.Option(help="Item of the same source that counts in its place.")
    ] = None,
    config: Config = None,
    url: Url = None,
    key_file: AdminKey = None,
) -> None:
    """Ends a wrong feedback item: no reward, expert or trainer gets it any more."""

    async def end(gateway: GatewayClient) -> RetiredItem:
        return await gateway.retire_feedback(item, reason, superseded_by=superseded_by)

    ended = _at(config, url, key_file, end)
    typer.echo(f"{ended.item_id} of {ended.source} is {ended.state}: {ended.reason}")
    typer.echo(f"{ended.targets} targets had been made with it in view")


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="New folder for the copy.")],
    config: Config = None,
) -> None:
    """Copies database and blobs while the deployment runs; keys and settings are not copied."""
    settings = _settings(config)
    try:
        number = back_up(settings, folder)
    except OSError as error:
        raise fail_with(str(error)) from None
    typer.echo(f"{folder}: the database and {number} blobs")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of a backup.")],
    config: Config = None,
) -> None:
    """Copies a backup into a deployment without database and blobs, before its first start."""
    settings = _settings(config)
    try:
        number = restore_backup(folder, settings)
    except (OSError, ValueError, PreceptorError) as error:
        raise fail_with(str(error)) from None
    typer.echo(f"{folder}: the database and {number} blobs are in place, every blob was checked;")
    typer.echo("start the gateway: it migrates the tables and asks what is unanswered again")


def _settings(config: Path | None) -> Deployment:
    try:
        return load_settings(config or find_settings(Path()))
    except (OSError, ValueError) as error:
        raise fail_with(str(error)) from None


def _at(
    config: Path | None,
    url: str | None,
    key_file: Path | None,
    work: Callable[[GatewayClient], Awaitable[_T]],
) -> _T:
    async def within(address: str, key: str) -> _T:
        async with GatewayClient(address, key) as gateway:
            return await work(gateway)

    try:
        if url is None or key_file is None:
            settings = load_settings(config or find_settings(Path()))
            url = url or settings.gateway.url
            key_file = key_file or settings.key_for("admin")
        return asyncio.run(within(url, read_secret(key_file)))
    except (OSError, ValueError, PreceptorError) as error:
        raise fail_with(str(error)) from None


async def _all_entries(gateway: GatewayClient) -> list[AuditEntry]:
    return [entry async for page in _audit_pages(gateway) for entry in page.entries]


async def _audit_pages(gateway: GatewayClient) -> AsyncIterator[AuditPage]:
    after: int | None = 0
    while after is not None:
        page = await gateway.call("GET", "/v1/audit", params={"after": after}, reply=AuditPage)
        yield page
        after = page.after


async def _all_dead(gateway: GatewayClient) -> list[DeadJob]:
    jobs: list[DeadJob] = []
    after: str | None = ""
    while after is not None:
        page = await gateway.call("GET", "/v1/jobs/dead", params={"after": after}, reply=DeadJobs)
        jobs += page.jobs
        after = page.after
    return jobs


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
