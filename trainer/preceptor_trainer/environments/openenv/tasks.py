"""Tasks of an OpenEnv server, which lists those of its environment by split and index.

    GET  /list_environments                                       ->  ["NAME"]
    GET  /NAME/splits                                             ->  [{"name": "train", ...}]
    POST /NAME/num_tasks   {"split": "train"}                     ->  {"num_tasks": 7595}
    POST /NAME/task_range  {"split": "train", "start": 0, ...}    ->  {"tasks": [{...}, ...]}

A session is given a task by the `split` and `index` of its reset. An environment need not have
tasks; then its server answers these with 501. https://huggingface.co/docs/openenv/guides/task-api
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import quote

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.json_text import read_json
from preceptor_clients.contract.wire import JSON
from preceptor_clients.http.connection import HttpClient

_PAGE: Final = 256
"""Tasks of one request."""
_LONGEST: Final = 256 << 20
_MOST_WORDS: Final = 300
_NOT_OFFERED: Final = frozenset({404, 405, 501})


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The first tasks of a split."""

    num_tasks: int
    """Tasks of the whole split."""
    first: tuple[dict[str, Any], ...]
    """Tasks from index 0 on, with their `split` and `index`."""


async def read_tasks(url: str, split: str, *, most: int | None, timeout_s: float) -> Tasks:
    """The tasks of a split.

    Args:
        url: Address of the server.
        split: Name of the split.
        most: Most tasks that are read; all where absent.
        timeout_s: Longest wait for an answer.

    Raises:
        ValueError: the server does not answer, or offers no tasks, or has no such split.
    """
    async with HttpClient(url, max_reply_bytes=_LONGEST) as client:
        server = _Server(client, url, timeout_s)
        name = quote(await server.environment(), safe="")
        await server.check_split(name, split)
        asked = await server.ask("POST", f"/{name}/num_tasks", {"split": split})
        num_tasks = server.member(asked, "num_tasks", int)
        wanted = num_tasks if most is None else min(num_tasks, most)
        tasks: list[dict[str, Any]] = []
        while len(tasks) < wanted:
            tasks += await server.page(name, split, len(tasks), min(wanted, len(tasks) + _PAGE))
    return Tasks(num_tasks=num_tasks, first=tuple(tasks))


@dataclass(frozen=True)
class _Server:
    client: HttpClient
    url: str
    timeout_s: float

    async def environment(self) -> str:
        names = await self.ask("GET", "/list_environments")
        if not isinstance(names, list) or not names:
            raise ValueError(f"{self.url}: named no environment: {_short(names)}")
        return str(cast("list[Any]", names)[0])

    async def check_split(self, name: str, split: str) -> None:
        listed = await self.ask("GET", f"/{name}/splits")
        given = cast("list[Any]", listed) if isinstance(listed, list) else []
        names = [str(self.member(one, "name", str)) for one in given]
        if split not in names:
            raise ValueError(
                f"{self.url}: has no split {split!r} of tasks; there are "
                f"{', '.join(names) or 'none'}"
            )

    async def page(self, name: str, split: str, start: int, stop: int) -> list[dict[str, Any]]:
        asked = {"split": split, "start": start, "stop": stop}
        reply = await self.ask("POST", f"/{name}/task_range", asked)
        tasks: list[Any] = self.member(reply, "tasks", list)
        if len(tasks) != stop - start:
            raise ValueError(
                f"{self.url}: gave {len(tasks)} tasks of {split!r} for the places {start} to "
                f"{stop - 1}"
            )
        return [{**_columns(task), "split": split, "index": start + i}
                for i, task in enumerate(tasks)]  # fmt: skip

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": JSON, "accept": JSON}
        try:
            reply = await self.client.raw(
                method, path, content=content, headers=headers, timeout_s=self.timeout_s
            )
        except PreceptorError as error:
            raise ValueError(f"{self.url}: its tasks cannot be read: {error.detail}") from error
        if reply.status in _NOT_OFFERED:
            raise ValueError(
                f"{self.url}: offers no tasks: {method} {path} gave {reply.status} "
                f"({_said(reply.body)}); name a data file, with a row for each task"
            )
        if reply.status != 200:
            raise ValueError(
                f"{self.url}: {method} {path} gave {reply.status}: {_said(reply.body)}"
            )
        try:
            return read_json(reply.body)
        except ValueError as error:
            raise ValueError(f"{self.url}: {method} {path} gave no JSON: {error}") from error

    def member(self, value: Any, name: str, kind: type) -> Any:
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        found = fields.get(name)
        if not isinstance(found, kind):
            raise ValueError(f"{self.url}: an answer has no `{name}`: {_short(value)}")
        return found


def _columns(task: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", task) if isinstance(task, dict) else {"task": task}


def _said(body: bytes) -> str:
    """The `detail` of an error, or its text."""
    text = body.decode("utf-8", "replace")
    try:
        detail: Any = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = text
    return _short(detail)


def _short(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:_MOST_WORDS] or "no reason"
