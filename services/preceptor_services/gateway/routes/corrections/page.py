"""The page for annotators, served from files of this package: no build step, no other origins.

The content security policy lets the page run its own modules and call its own origin only. Trusted
types forbid making markup from strings, so texts written by people or models stay text even if a
later change of the page omits the escaping.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from preceptor_clients.contract.errors import NotFound

router = APIRouter(prefix="/corrections", include_in_schema=False)

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # The browser revalidates each time (304), so a new version is loaded at once.
    "cache-control": "no-cache",
}
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class _File(NamedTuple):
    """One file of the page, read once."""

    content: bytes
    media_type: str
    etag: str


def _read() -> dict[str, _File]:
    found: dict[str, _File] = {}
    for entry in (files("preceptor_services.corrections") / "page").iterdir():
        media_type = _TYPES.get(entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _File(content, media_type, etag)
    return found


_FILES: Final = _read()


@router.get("")
async def at_its_folder() -> Response:
    """Redirects to the folder, because the page's links are relative to it."""
    return RedirectResponse("corrections/")


@router.get("/{name:path}")
async def page_file(request: Request, name: str) -> Response:
    """One file of the page; the folder itself returns index.html."""
    file = _FILES.get(name or "index.html")
    if file is None:
        raise NotFound(f"the page has no file {name!r}", field="path")
    headers = {**_HEADERS, "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
