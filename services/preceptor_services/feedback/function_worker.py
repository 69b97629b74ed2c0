"""The process in which a judge runs: reads calls from standard input, one JSON value a line.

    {"id": 1, "row": {...}, "response": "84", "finish_reason": "stop"}
    {"id": 1, "score": 1.0, "text": null}      or      {"id": 1, "error": "...", "traceback": "..."}

The first line is the settings, the first reply says whether the function could be loaded. A
function is called for one line after the other; of an async function many calls run at a time. What
the function prints goes to standard error, which is the source's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import inspect
import json
import linecache
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Final

from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.sdk.judging import Judge, NotJudged, Response, as_feedback, load_judge

_PR_SET_PDEATHSIG: Final = 1
_MAX_TEXT: Final = 1 << 16
"""Characters of a text; a longer one is cut, because every target of it is stored."""

Call = dict[str, Any]
Write = Callable[[dict[str, Any]], None]


def main() -> None:
    """Serves calls until standard input ends."""
    _die_with_parent()
    allow_long_integers()
    calls, write = _own_streams()
    settings = json.loads(calls.readline())
    try:
        judge = load_judge(settings["function"])
        version = _version(judge)
    except BaseException as error:
        write(_failed(error))
        return
    is_async = inspect.iscoroutinefunction(judge)
    write({"is_async": is_async, "version": version})
    options: dict[str, Any] = settings["options"]
    if is_async:
        asyncio.run(_serve_async(calls, write, judge, options, settings["timeout_s"]))
    else:
        _serve(calls, write, judge, options)


def _own_streams() -> tuple[BinaryIO, Write]:
    """The streams to the source; what the function itself reads and prints goes elsewhere."""
    calls, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def write(reply: dict[str, Any]) -> None:
        line = json.dumps(reply, allow_nan=False).encode() + b"\n"
        with lock:
            replies.write(line)
            replies.flush()

    return calls, write


def _serve(calls: BinaryIO, write: Write, judge: Judge, options: dict[str, Any]) -> None:
    for call in iter(_read_ahead(calls).get, None):
        try:
            returned = judge(call["row"], _response(call), **options)
            reply = _said(returned)
        except BaseException as error:  # a judge may raise anything, SystemExit too
            reply = _failed(error)
        write({"id": call["id"], **reply})


async def _serve_async(
    calls: BinaryIO, write: Write, judge: Judge, options: dict[str, Any], timeout_s: float
) -> None:
    waiting = _read_ahead(calls)

    async def answer(call: Call) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                reply = _said(await judge(call["row"], _response(call), **options))
        except TimeoutError as error:
            late = f"took longer than {timeout_s:g} s"
            reply = {"error": late} if str(error) == "" else _failed(error)
        except BaseException as error:
            reply = _failed(error)
        write({"id": call["id"], **reply})

    async with asyncio.TaskGroup() as group:
        while (call := await asyncio.to_thread(waiting.get)) is not None:
            group.create_task(answer(call))


def _read_ahead(calls: BinaryIO) -> queue.Queue[Call | None]:
    """Reads in a thread, so that the process ends with its source also in the middle of a call."""
    waiting: queue.Queue[Call | None] = queue.Queue()

    def read() -> None:
        for line in calls:
            waiting.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return waiting


def _response(call: Call) -> Response:
    return Response(call["response"], call["finish_reason"], call.get("turns", ()))


def _said(returned: Any) -> dict[str, Any]:
    feedback = as_feedback(returned)
    text = feedback.text
    if text is not None:
        text = _encodable(text[:_MAX_TEXT])
    return {"score": None if feedback.score is None else float(feedback.score), "text": text}


def _failed(error: BaseException) -> dict[str, Any]:
    if isinstance(error, NotJudged):
        return {"cannot_tell": _encodable(str(error))}
    linecache.checkcache()
    last = traceback.format_exception_only(error)[-1].strip()
    where = _place(error)
    text = f"{last} ({where})" if where else last
    whole = "".join(traceback.format_exception(error))
    return {"error": _encodable(text), "traceback": _encodable(whole)}


def _encodable(text: str) -> str:
    """The text without half surrogate pairs, which no message may have."""
    return text.encode("utf-8", "replace").decode()


def _place(error: BaseException) -> str | None:
    """File and line of the innermost frame that is not of this process's own modules."""
    own = {__file__, sys.modules[load_judge.__module__].__file__}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in own]
    frames = [f for f in frames if not f.filename.startswith("<frozen")]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else None


def _version(judge: Judge) -> str:
    """A hash of the judge's code: its file, the modules of its folder or package beside it, and the
    versions of the libraries that it names in its attribute `libraries`.
    """
    source = inspect.getsourcefile(inspect.unwrap(judge))
    if source is None:
        return "unknown"
    own = Path(source).resolve()
    digest = hashlib.sha256()
    for file in sorted({own, *_neighbours(own.parent, inspect.unwrap(judge).__module__)}):
        with contextlib.suppress(OSError):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    for library in getattr(judge, "libraries", ()):
        digest.update(f"{library} {metadata.version(library)}".encode())
    return digest.hexdigest()[:16]


def _neighbours(folder: Path, module: str) -> Iterator[Path]:
    """Files of the loaded modules that lie in the judge's folder, or belong to its package."""
    package, dot, _ = module.partition(".")
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if isinstance(file, str):
            path = Path(file).resolve()
            if path.is_relative_to(folder) or (dot and name.startswith(f"{package}.")):
                yield path


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
