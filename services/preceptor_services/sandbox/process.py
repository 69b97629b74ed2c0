"""The process sandbox, on the side of the service: starts `zygote.py` and sends it attempts.

One sandbox runs one attempt at a time, in its own process with limits on processor, memory, files,
processes and output. Where the kernel allows namespaces, the process cannot see the network, other
processes or files; `describe` lists the protections in force. Left out: a filter on system calls. A
bug in the kernel may allow an escape.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from pydantic import JsonValue

from preceptor_services.sandbox.isolation import (
    CaseResult,
    Ended,
    IsolationFailed,
    Limits,
    Outcome,
    ProgramRun,
)

FIRST_UID: Final = 65_520
"""User ids between those that systemd assigns and `nobody`, so that no other process has them."""
MAX_SLOTS: Final = 12
_ZYGOTE: Final = Path(__file__).with_name("zygote.py")
_START_S: Final = 60.0
_GRACE_S: Final = 30.0
"""Extra time for a reply beyond the attempt's own limit, for a busy machine."""
_MAX_HEADER: Final = 65_536


class ProcessIsolation:
    """One fork server; where the service runs as root, `slot` gives it its own user."""

    def __init__(self, slot: int = 0) -> None:
        if not 0 <= slot < MAX_SLOTS:
            raise ValueError(f"slot: {slot} is outside 0..{MAX_SLOTS - 1}")
        self._uid = FIRST_UID + slot
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._description: dict[str, JsonValue] = {}

    @property
    def pid(self) -> int | None:
        """Process id of the fork server's outermost process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the fork server unless it runs, and waits until its protections are set.

        Raises:
            IsolationFailed: It did not start.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", str(_ZYGOTE)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # Fixed, so that sets of text have one order; the service's own is not handed on.
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        self._control = ours
        root = tempfile.mkdtemp(prefix="preceptor-empty-")
        try:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                settings = {
                    "root": root,
                    "uid": self._uid,
                    "probe_port": probe.getsockname()[1],
                }
                description, _ = self._ask(settings, _START_S, 0)
        finally:
            # Removed immediately, so that no process can write there, not even its owner.
            os.rmdir(root)
        self._description = cast("dict[str, JsonValue]", description)

    def describe(self) -> dict[str, JsonValue]:
        """The protections that the fork server could set."""
        return dict(self._description)

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        """Runs one attempt.

        Raises:
            IsolationFailed: The fork server ended or did not answer; the next call starts a new
                one.
        """
        self.start()
        request = {
            "program": attempt.program,
            "entry": attempt.entry,
            "inputs": [json.dumps(value) for value in attempt.inputs],
            "limits": asdict(limits),
        }
        header, reply = self._ask(request, limits.timeout_s + _GRACE_S, limits.output_bytes)
        return _outcome(header, reply, len(attempt.inputs))

    def stop(self) -> None:
        """Ends the fork server and everything in it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, 9)
                self._process.wait()
            self._process = None

    def _ask(
        self, message: dict[str, Any], timeout_s: float, max_body: int
    ) -> tuple[dict[str, Any], bytes]:
        assert self._control is not None
        self._control.settimeout(timeout_s)
        text = json.dumps(message).encode()
        try:
            self._control.sendall(struct.pack("<II", len(text), 0) + text)
            header_len, body_len = struct.unpack("<II", self._read(8))
            if header_len > _MAX_HEADER or body_len > max_body:
                raise OSError(f"invalid reply: header of {header_len}, body of {body_len} bytes")
            return json.loads(self._read(header_len)), self._read(body_len)
        except (OSError, ValueError) as error:
            self._kill()
            raise IsolationFailed(f"the fork server did not answer: {error}") from error

    def _read(self, size: int) -> bytes:
        assert self._control is not None
        parts: list[bytes] = []
        while size:
            part = self._control.recv(min(size, 1 << 20))
            if not part:
                raise OSError("its process has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
        self.stop()


def _outcome(header: dict[str, Any], reply: bytes, num_cases: int) -> Outcome:
    """The outcome in a child's reply, which is untrusted: the program can write to the pipe."""
    ended = cast("Ended", header["ended"])
    lines = reply.split(b"\n")[:-1]
    if not lines or _parsed(lines[0]) != {"ready": True}:
        raise IsolationFailed("the child could not be set up")
    found = [_parsed(line) for line in lines[1 : num_cases + 1]]
    if len(found) == 1 and isinstance(found[0].get("program_error"), str):
        return Outcome(results=(), ended=ended, program_error=_clean(found[0]["program_error"]))
    results: list[CaseResult] = []
    for entry in found:
        result = _case_result(entry)
        if result is None:
            break
        results.append(result)
    if ended == "finished" and len(results) < num_cases:
        ended = "crashed"
    return Outcome(results=tuple(results), ended=ended)


def _case_result(entry: dict[str, Any]) -> CaseResult | None:
    match entry:
        case {"value": value}:
            return CaseResult(value=value)
        case {"other": str() as other}:
            return CaseResult(other=_clean(other))
        case {"error": str() as error}:
            return CaseResult(error=_clean(error))
        case _:
            return None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def _clean(text: str) -> str:
    """Removes addresses, which differ between runs, and lone surrogates, which UTF-8 cannot
    encode."""
    return re.sub(r" at 0x[0-9a-f]+", "", text).encode("utf-8", "replace").decode()
