"""A remote executor over HTTP, by SandboxFusion's call `run_code`; its walls are its own.

https://bytedance.github.io/SandboxFusion. Nothing here can test them: name this rung only where the
server's own isolation is known (SandboxFusion's default configuration has none).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from typing import Any, Final, cast

from pydantic import JsonValue

from preceptor_clients.contract.errors import PreceptorError
from preceptor_services.kit.upstream import Upstream, member
from preceptor_services.sandbox import cold
from preceptor_services.sandbox.command import Command, CommandLimits, Execution, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed, Limits, Outcome, ProgramRun
from preceptor_services.sandbox.rungs.rung import Rung, RungOptions

_GRACE_S: Final = 30.0
_LONGEST_S: Final = 600.0


class RemoteSandbox:
    """One connection to a remote executor."""

    def __init__(self, url: str, key_file: str | None) -> None:
        self._url = url
        self._upstream = Upstream(url, key_file, max_concurrency=1, timeout_s=_LONGEST_S)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Runs one command, unless it has.

        Raises:
            IsolationFailed: The server does not answer as `run_code` does.
        """
        if self._loop is not None:
            return
        self._loop = asyncio.new_event_loop()
        try:
            found = self.execute(Command(files={"main.py": "print(1)"}))
            if found.stdout.strip() != b"1":
                raise IsolationFailed(f"remote: {self._url} printed {found.stdout[:80]!r} for 1")
        except IsolationFailed:
            self.stop()
            raise

    def describe(self) -> dict[str, JsonValue]:
        """Where it is; its walls are not known here."""
        return {"level": "remote", "url": self._url, "walls": "the server's own, not tested"}

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        """Evaluates an expression.

        Raises:
            IsolationFailed: The server failed, not the program.
        """
        command = cold.expression_command(attempt)
        found = self.execute(command, cold.expression_limits(limits))
        return cold.expression_outcome(found, len(attempt.inputs))

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        """Runs one command.

        Raises:
            IsolationFailed: The server failed, not the program.
        """
        self.start()
        limits = limits or CommandLimits()
        started = time.monotonic()
        reply = self._post(_request(command, limits), limits.timeout_s + _GRACE_S)
        return _execution(reply, command, limits, time.monotonic() - started)

    def stop(self) -> None:
        """Closes the connection."""
        if self._loop is not None:
            self._loop.run_until_complete(self._upstream.aclose())
            self._loop.close()
            self._loop = None

    def _post(self, body: dict[str, Any], timeout_s: float) -> Any:
        assert self._loop is not None
        call = self._upstream.post("/run_code", body, timeout_s=timeout_s)
        try:
            return self._loop.run_until_complete(call)
        except PreceptorError as error:
            raise IsolationFailed(f"remote: {self._url}: {error.detail}") from error


def _request(command: Command, limits: CommandLimits) -> dict[str, Any]:
    files = {name: _encoded(contents) for name, contents in command.files.items()}
    files[cold.STDIN] = _encoded(command.stdin)
    return {
        "language": "bash",
        "code": cold.script(command, limits, "python3"),
        "files": files,
        "fetch_files": [cold.RESULT, *command.keep],
        "run_timeout": limits.timeout_s,
        "memory_limit_MB": limits.memory_mb,
    }


def _execution(reply: Any, command: Command, limits: CommandLimits, wall_s: float) -> Execution:
    run, files = member(reply, "run_result"), member(reply, "files")
    if member(reply, "status") == "SandboxError" or not isinstance(run, dict):
        raise IsolationFailed(f"remote: it failed: {member(reply, 'message') or reply!r}"[:500])
    status = member(run, "status")
    code = member(run, "return_code")
    timed_out = status == "TimeLimitExceeded"
    if status not in ("Finished", "TimeLimitExceeded") or not (timed_out or isinstance(code, int)):
        raise IsolationFailed(f"remote: it answered a run with status {status!r}, code {code!r}")
    named = cast("dict[str, Any]", files) if isinstance(files, dict) else {}
    fetched = {name: _decoded(text) for name, text in named.items()}
    seconds = float(member(run, "execution_time") or wall_s)
    how = cold.ended(0 if timed_out else code, seconds, limits, timed_out=timed_out)
    found = Execution(
        ended_by=how,
        exit_code=code if how == "exit" else None,
        signal=-code if how == "signal" else None,
        stdout=_bytes(member(run, "stdout")),
        stderr=_bytes(member(run, "stderr")),
        result=fetched.get(cold.RESULT, b""),
        files={name: fetched[name] for name in command.keep if name in fetched},
        wall_seconds=seconds,
        rung="remote",
    )
    return cold.cut(found, limits)


def _encoded(contents: str | bytes) -> str:
    data = contents.encode() if isinstance(contents, str) else contents
    return base64.b64encode(data).decode()


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise IsolationFailed("remote: a fetched file is not base64") from error


def _bytes(text: Any) -> bytes:
    return str(text or "").encode("utf-8", "surrogatepass")


def _open(slot: int, options: RungOptions) -> Sandbox:
    if not options.url:
        raise IsolationFailed("remote: it needs the server's address in the option `url`")
    return RemoteSandbox(options.url, options.key_file or None)


RUNG: Final = Rung(
    name="remote",
    open=_open,
    has_walls=False,
    needs="a server with SandboxFusion's `run_code`, whose own isolation is known",
)
