"""Every page can be reached, every link leads somewhere. The strict build itself is CI's."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from docs_pages import ROOT, all_pages, anchors, links

from site_hook import expanded, generated, named, written

ROOMS = ("clients", "services", "trainer", "tests", "benchmarks", "docs", "scripts", "examples")
WRITTEN_BY_READERS = ("wise_owl.py", "test_wise_owl.py", "owl_recipe.py", "my_recipe.py")


@pytest.fixture(scope="module")
def navigation() -> list[str]:
    # Plugins may bring tags of their own; the navigation has none.
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    return list(named(expanded(settings["nav"])))


def test_every_page_is_in_the_navigation_once(navigation):
    assert sorted(navigation) == sorted({*written(), *generated()})


def test_no_link_is_dead():
    pages = all_pages()
    dead: list[str] = []
    for page, text in pages.items():
        for path, anchor in links(text):
            target = os.path.normpath(Path(page).parent / path) if path else page
            if target in pages:
                if anchor and anchor not in anchors(pages[target]):
                    dead.append(f"{page}: {path}#{anchor}")
            elif not (ROOT / target).is_file() and not (ROOT / target / "README.md").is_file():
                dead.append(f"{page}: {path}")

    assert dead == []


def test_what_the_readme_links_to_can_be_read_without_the_site():
    readme = (ROOT / "README.md").read_text()

    assert [path for path, _ in links(readme) if path and not (ROOT / path).exists()] == []


def test_nothing_is_fetched_by_the_readers_browser():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)

    assert settings["theme"]["font"] == "false"
    assert not any("://" in str(path) for path in settings.get("extra_css", []))
    assert "extra_javascript" not in settings


def test_files_and_folders_that_a_page_names_exist():
    code = [p for room in ROOMS for p in (ROOT / room).rglob("*") if "__pycache__" not in p.parts]
    there = {f"/{path.relative_to(ROOT)}{'/' * path.is_dir()}" for path in code}
    there |= {f"/{name}" for name in WRITTEN_BY_READERS}
    missing = [
        f"{page}: {name}"
        for page, text in written().items()
        if not page.startswith("decisions/")
        for name in re.findall(r"`(\w[\w/.-]*(?:\.py|\w/))`", text)
        if not any(path.endswith(f"/{name}") for path in there)
    ]

    assert missing == []


@pytest.mark.parametrize("package", ["clients", "services", "trainer"])
def test_the_architecture_names_every_room(package):
    page = written()["explanation/architecture.md"]
    section = page.partition(f"### Rooms of the {package}\n")[2].partition("\n#")[0]
    rooms = [f.parent.name for f in (ROOT / package).glob("preceptor_*/*/__init__.py")]

    assert len(rooms) > 5
    assert [room for room in rooms if f"`{room}/`" not in section] == []


def test_the_architecture_names_every_import_contract():
    page = written()["explanation/architecture.md"]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]

    missing = [c["id"] for c in contracts["contracts"] if f"| `{c['id']}` |" not in page]
    assert missing == []


@pytest.mark.parametrize("folder", ["clients", "services", "trainer", "benchmarks", "scripts"])
def test_pages_that_the_code_names_exist(folder):
    found = {
        path.rstrip(".")
        for file in (ROOT / folder).rglob("*.py")
        for path in re.findall(r"docs/[\w/-]+\.(?:md|json|png)", file.read_text())
    }

    assert [p for p in sorted(found) if not (ROOT / p).is_file() and p[5:] not in generated()] == []
