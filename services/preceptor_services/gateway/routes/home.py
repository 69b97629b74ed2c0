"""The root of the gateway: its links as a small page for browsers and as JSON for other clients.

The route needs no key, so it shows no private data. Links are relative to the page, which therefore
works behind a proxy that serves it under a folder.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib.metadata import metadata, version
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse

router = APIRouter(include_in_schema=False)


class _Link(NamedTuple):
    """One link of the index."""

    name: str
    href: str
    text: str


_LINKS: Final = (
    _Link("corrections", "corrections/", "Correction page: for people with a key of their own"),
    _Link("openapi", "openapi.json", "Description of the HTTP API, for programs"),
    _Link("live", "livez", "Health: the process runs"),
    _Link("ready", "readyz", "Readiness: database and broker answer"),
    _Link("metrics", "metrics", "Metrics for Prometheus; asks for a key of scope reader"),
)
_NO_ADDRESS: Final = "docs/ of the source tree; `make docs` builds them as a site"
_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}"
    "dt{margin-top:.8rem}dd{margin:0;overflow-wrap:anywhere}"
)


def documentation(project_urls: Iterable[str]) -> str | None:
    """The address of the documentation among a package's `Project-URL` lines, if it names one."""
    for line in project_urls:
        label, _, address = (part.strip() for part in line.partition(","))
        if label.lower() in ("documentation", "docs"):
            return address
    return None


def _style_source() -> str:
    digest = hashlib.sha256(_STYLE.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_HEADERS: Final = {
    "content-security-policy": (
        f"default-src 'none'; style-src {_style_source()}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
    "vary": "accept",
}


@router.get("/")
async def home(request: Request) -> Response:
    """An HTML page for browsers, else a JSON index."""
    docs = documentation(metadata("preceptor").get_all("project-url") or ())
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_page(docs), headers=_HEADERS)
    index = {
        "name": "preceptor gateway",
        "version": version("preceptor"),
        "links": {link.name: link.href for link in _LINKS},
        "documentation": docs or _NO_ADDRESS,
    }
    return JSONResponse(index, headers={"cache-control": "no-cache", "vary": "accept"})


def _page(docs: str | None) -> str:
    rows = [f'<dt><a href="{one.href}">{one.href}</a></dt><dd>{one.text}</dd>' for one in _LINKS]
    if docs is None:
        rows.append(f"<dt>Documentation</dt><dd>{escape(_NO_ADDRESS)}</dd>")
    else:
        rows.append(f'<dt>Documentation</dt><dd><a href="{escape(docs)}">{escape(docs)}</a></dd>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>preceptor gateway</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>preceptor gateway</h1><p>Version {escape(version('preceptor'))}. This address serves "
        "trainers, experts and people who correct responses.</p>"
        f"<dl>{''.join(rows)}</dl></main></body></html>\n"
    )
