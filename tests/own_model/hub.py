"""The part of the hub's HTTP interface that its client and `datasets` ask, over local folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import unquote, urlsplit

Repos = Mapping[str, Mapping[str, Path]]
"""Folders by revision, by `models/ORG/NAME` or `datasets/ORG/NAME`; `main` is the usual one."""
_KINDS: Final = ("models", "datasets")


@contextmanager
def serving(repos: Repos) -> Generator[str]:
    """The address at which `repos` are served."""

    class Handler(_Handler):
        pass

    Handler.repos = repos
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Missing(Exception):
    """Its text is the hub's code of the error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: ClassVar[Repos] = {}

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        try:
            if parts[0] == "api":
                answer = self._about(parts[1:])
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            else:
                self._file(parts if parts[0] in _KINDS else ["models", *parts])
        except _Missing as missing:
            headers = {"X-Error-Code": str(missing), "Content-Type": "application/json"}
            self._send(404, b'{"error": "not found"}', headers)

    do_HEAD = do_GET

    def _about(self, parts: list[str]) -> Any:
        """`KIND/ORG/NAME`, one of its revisions, or a folder in it."""
        repo, (what, revision, *under) = "/".join(parts[:3]), parts[3:] or ("revision", "main")
        folder = self._folder(repo, revision)
        if what == "revision":
            names = (path.relative_to(folder).as_posix() for path in _files(folder))
            siblings = [{"rfilename": name} for name in names]
            return {"id": "/".join(parts[1:3]), "sha": sha(folder), "siblings": siblings}
        inside = folder.joinpath(*under)
        if what != "tree" or not inside.is_dir():
            raise _Missing("EntryNotFound")
        found = _files(inside) if "recursive=true" in self.path else sorted(inside.iterdir())
        return [_entry(path, folder) for path in found]

    def _file(self, parts: list[str]) -> None:
        """`KIND/ORG/NAME/resolve/REVISION/FILE`."""
        if len(parts) < 6 or parts[3] != "resolve":
            raise _Missing("RepoNotFound")
        folder = self._folder("/".join(parts[:3]), parts[4])
        path = folder.joinpath(*parts[5:])
        if not path.is_file():
            raise _Missing("EntryNotFound")
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self._send(200, data, {"ETag": etag, "X-Repo-Commit": sha(folder)})

    def _folder(self, repo: str, revision: str) -> Path:
        if repo not in self.repos:
            raise _Missing("RepoNotFound")
        by_revision = self.repos[repo]
        commits = {sha(folder): folder for folder in by_revision.values()}
        found = by_revision.get(revision) or commits.get(revision)
        if found is None:
            raise _Missing("RevisionNotFound")
        return found

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    kind = "directory" if path.is_dir() else "file"
    name = path.relative_to(folder).as_posix()
    return {"type": kind, "path": name, "size": path.stat().st_size, "oid": "0" * 40}


def sha(folder: Path) -> str:
    """A commit of the folder: as long as the hub's."""
    return hashlib.sha1(str(folder).encode()).hexdigest()
