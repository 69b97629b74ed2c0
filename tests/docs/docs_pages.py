"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import site_hook
from reference import markdown

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
_NAMED = re.compile(r'\{#([\w-]+)\}|<span id="([\w-]+)">')


def all_pages() -> dict[str, str]:
    """Every page of the site by its path below the repository, README and CONTRIBUTING too."""
    pages = {**site_hook.written(), **site_hook.generated()}
    root = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
    return {**{f"docs/{path}": text for path, text in pages.items()}, **root}


def blocks(language: str) -> list[tuple[str, str]]:
    """Fenced blocks of the pages that are written by hand, each with the name of its place."""
    written = {f"docs/{path}": text for path, text in site_hook.written().items()}
    written["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text()
    return [
        (f"{path}#{number}", match[3])
        for path, text in written.items()
        for number, match in enumerate(_FENCE.finditer(text))
        if match[2] == language
    ]


def spans() -> list[str]:
    """Code in the sentences of hand-written pages that is a call or an attribute in Python.

    Decisions are history: they say what was.
    """
    written = {p: t for p, t in site_hook.written().items() if not p.startswith("decisions/")}
    found = {code for text in written.values() for code in _SPAN.findall(_FENCE.sub("", text))}
    # An argument alone, as in `objective=DistIL()`, is read as one of a call without a name.
    calls = {f"_({code})" if re.match(r"[a-z_]+=[A-Z]", code) else code for code in found}
    return sorted(code for code in calls if _is_python(code))


def _is_python(code: str) -> bool:
    if not re.match(r"([A-Z]\w+|_)[.(]", code):
        return False
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def links(text: str) -> Iterator[tuple[str, str]]:
    """Relative links of a page outside its code: path and what follows the `#`."""
    prose = re.sub(r"`[^`\n]*`", "code", _FENCE.sub("", text))
    for match in re.finditer(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", prose):
        yield match[1], match[2] or ""


def anchors(text: str) -> set[str]:
    """What a link to a page may say after the `#`."""
    prose = _FENCE.sub("", text)
    named = {one or other for one, other in _NAMED.findall(prose)}
    return named | {markdown.slug(re.sub(r"[`.:,'()/?]", "", h)) for h in _HEADING.findall(prose)}
