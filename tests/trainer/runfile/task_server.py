"""A small server of OpenEnv's task routes, which answers as OpenEnv's own does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


class TaskServer(ThreadingHTTPServer):
    """Tasks by split, of an environment with the name `count env`."""

    def __init__(self, splits: dict[str, list[Any]], *, num_more: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.splits = splits
        self.num_more = num_more
        """How many more there are said to be than there are."""
        self.broken: Answer | None = None
        self.ranges: list[tuple[int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, asked: dict[str, Any]) -> Answer:
        if path == "/list_environments":
            return 200, ["count env"]
        if not self.splits:
            return 501, {"detail": f"{path} is not supported for this environment"}
        if path == "/count%20env/splits":
            return 200, [{"name": name, "type": "validation"} for name in self.splits]
        tasks = self.splits[asked["split"]]
        if path == "/count%20env/num_tasks":
            return 200, {"num_tasks": len(tasks) + self.num_more}
        assert path == "/count%20env/task_range"
        self.ranges.append((asked["start"], asked["stop"]))
        return 200, {"tasks": tasks[asked["start"] : asked["stop"]]}


class Handler(BaseHTTPRequestHandler):
    server: TaskServer

    def do_GET(self) -> None:
        self._send(self.server.broken or self.server.answer(self.path, {}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.server.broken or self.server.answer(self.path, asked))

    def _send(self, answer: Answer) -> None:
        status, value = answer
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the test's output."""


@contextmanager
def serving(splits: dict[str, list[Any]], **settings: Any) -> Iterator[TaskServer]:
    server = TaskServer(splits, **settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
