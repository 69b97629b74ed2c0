"""What a person's browser loads, followed from the page as a browser does."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

import httpx

from .conftest import Office

EDITOR = {"editor.js", "history.js", "changes.js", "diff.js", "jsdiff.js"}
"""The text under edit, its undo, and its live difference."""


async def _loaded(office: Office) -> dict[str, int]:
    """Bytes over the wire of the page and of everything that it leads to."""
    sizes: dict[str, int] = {}
    async with httpx.AsyncClient(transport=office.transport(), base_url="http://g") as browser:
        waiting = [""]
        while waiting:
            name = waiting.pop()
            reply = await browser.get(
                f"/corrections/{name}", headers={"accept-encoding": "identity"}
            )
            assert reply.status_code == 200, name
            sizes[name] = len(reply.content)
            found = re.findall(r'(?:href|src|from)[= ]"([^"#]+)"', reply.text)
            found += re.findall(r'import\(?"?([^" ()]+\.js)"', reply.text)
            assert not [other for other in found if "//" in other], "all of it is the gateway's own"
            names = {other.removeprefix("./") for other in found}
            waiting += sorted(names - sizes.keys() - set(waiting))
    return sizes


async def test_the_page_weighs_no_more_than_was_promised(small_office: Office) -> None:
    sizes = await _loaded(small_office)

    assert sizes.keys() >= EDITOR | {"", "app.js", "work.js", "style.css", "review.js"}
    assert sum(size for name, size in sizes.items() if name not in EDITOR) <= 150_000
    assert sum(sizes.values()) <= 400_000


def test_the_difference_engine_is_jsdiff_unchanged() -> None:
    engine = files("preceptor_services.corrections") / "page" / "jsdiff.js"
    header, _, code = engine.read_text().partition("\n*/\n")

    assert "jsdiff 9.0.0" in header
    assert "BSD 3-Clause License" in header
    assert hashlib.sha256(code.encode()).hexdigest() == (
        "faa81734df6ea7f8034efc5572ad1bbf19c50b300fdd183baf0d7813c5eec3b2"
    )
