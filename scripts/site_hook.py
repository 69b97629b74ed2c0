"""What the site's build adds to `docs/`: the generated reference, and files of the repository.

A page may link to any file of the repository, as in `../../benchmarks/results/compare-fast.md`. On
a code host such a link shows the file; in the site it leads to a copy under `source/`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import reference

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#:\s]+)((?:#[^)]*)?)\)")
AS_THEY_ARE = (".json", ".png", ".svg")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of a folder where the navigation says `folder/*`."""
    config.nav = expanded(cast("Any", config).nav or [])
    return config


def expanded(nav: list[Any]) -> list[Any]:
    """The navigation with every page named."""
    pages = sorted({*generated(), *written()} - set(named(nav)))

    def filled(entry: Any) -> Any:
        if isinstance(entry, list):
            entries = cast("list[Any]", entry)
            return [one for inner in entries for one in _as_list(filled(inner))]
        if isinstance(entry, dict):
            items = cast("dict[str, Any]", entry)
            return {title: filled(inner) for title, inner in items.items()}
        if str(entry).endswith("*"):
            return [page for page in pages if page.startswith(str(entry)[:-1])]
        return entry

    return filled(nav)


def named(nav: Any) -> Iterator[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        yield nav
        return
    if isinstance(nav, dict):
        nav = list(cast("dict[str, Any]", nav).values())
    for entry in nav:
        yield from named(entry)


def _as_list(entry: Any) -> list[Any]:
    return cast("list[Any]", entry) if isinstance(entry, list) else [entry]


@cache
def generated() -> dict[str, str]:
    """The pages made from the code, by their path below `docs/`."""
    return reference.pages()


def written() -> dict[str, str]:
    """The pages that lie in `docs/`, by their path there."""
    folder = ROOT / "docs"
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.md"))}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the generated pages, then every file of the repository that a page links to."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    waiting = [
        (f"docs/{page.src_uri}", page.content_string) for page in files.documentation_pages()
    ]
    while waiting:
        page, text = waiting.pop()
        for target in _outside(page, text):
            file = _copy(config, target)
            if files.get_file_from_path(file.src_uri) is None:
                files.append(file)
                if target.endswith(".md"):
                    waiting.append((target, (ROOT / target).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links that leave `docs/` to the copies."""
    here = page.file.src_uri
    origin = here.removeprefix("source/") if here.startswith("source/") else f"docs/{here}"
    origin = origin.removesuffix(".txt.md") if origin.endswith(".txt.md") else origin

    def moved(match: re.Match[str]) -> str:
        target = resolve(origin, match[1])
        path = target.removeprefix("docs/") if target.startswith("docs/") else _place(target)
        return f"]({os.path.relpath(path, PurePosixPath(here).parent)}{match[2]})"

    return LINK.sub(moved, markdown)


def resolve(page: str, link: str) -> str:
    """A relative link of a page as a path below the repository."""
    return os.path.normpath(PurePosixPath(page).parent / link)


def _outside(page: str, text: str) -> Iterator[str]:
    for link in LINK.finditer(text):
        target = resolve(page, link[1])
        if not target.startswith(("docs/", "..")) and (ROOT / target).is_file():
            yield target


def _place(target: str) -> str:
    """Where the copy of a repository's file stands below `docs/`."""
    rendered = target.endswith((".md", *AS_THEY_ARE))
    return f"source/{target}" if rendered else f"source/{target}.txt.md"


def _copy(config: MkDocsConfig, target: str) -> File:
    place = _place(target)
    if target.endswith(AS_THEY_ARE):
        return File.generated(config, place, abs_src_path=str(ROOT / target))
    text = (ROOT / target).read_text()
    if target.endswith(".md"):
        return File.generated(config, place, content=text)
    language = PurePosixPath(target).suffix.removeprefix(".") or "text"
    return File.generated(config, place, content=f"# {target}\n\n````{language}\n{text}````\n")
