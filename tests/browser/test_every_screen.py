"""H4: every screen is accessible, light and dark, wide and narrow; and the pictures of the docs.

`make browser ARGS="--pictures"` writes the pictures anew; otherwise they are only taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from preceptor_clients.contract.corrections import Submission

from .conftest import MakeItem, Office, OpenTab

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
FIGURES = Path(__file__).parents[2] / "docs" / "figures" / "corrections"
ALL_LOOKS = ("inbox", "edit", "experts", "review")
"""Screens whose pictures are kept in every look; of the others, the light one says enough."""
LOOKS = {"light": (1440, 900, False), "dark": (1440, 900, True), "phone": (390, 844, False)}
FIXED = (
    ("        if window < 0:", "    if window < 1:"),
    ("window < 0", "window < 1"),
    ("range(len(values) - window)", "range(len(values) - window + 1)"),
)


@pytest.fixture
def has_demo() -> bool:
    return True


@pytest.fixture
def picture(request: pytest.FixtureRequest, look: str) -> Any:
    """Takes a picture of a page; keeps it where pictures were asked for."""

    async def taken(page: Page, name: str) -> None:
        is_kept = look == "light" or name in ALL_LOOKS
        if is_kept and request.config.getoption("--pictures", default=False):
            FIGURES.mkdir(parents=True, exist_ok=True)
            path = FIGURES / f"{name}-{look}.png"
            await page.screenshot(path=path)

    return taken


@pytest.fixture(params=list(LOOKS))
def look(request: pytest.FixtureRequest) -> str:
    return request.param


async def serious(page: Page, axe_source: str) -> list[str]:
    """What axe finds serious or critical, with the place."""
    # Through the debugger's own world: the page's policy would refuse a foreign script.
    await page.evaluate(axe_source)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {n['target']} {n.get('failureSummary', '')}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"]
    ]


async def is_within_width(page: Page) -> bool:
    """Nothing sticks out at the side."""
    return await page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )


async def test_h4_every_screen_is_accessible(
    office: Office, visit: OpenTab, new_item: MakeItem, axe_source: str, look: str, picture: Any
) -> None:
    width, height, is_dark = LOOKS[look]
    size = {"width": width, "height": height, "dark": is_dark}
    ids = await office.add([new_item(n, f"answer {n}") for n in range(3)])
    found: dict[str, list[str]] = {}

    async def look_at(page: Page, name: str) -> None:
        await picture(page, name)
        found[name] = await serious(page, axe_source)
        if not await is_within_width(page):
            found[name].append("sticks out at the side")

    tab = await visit(**size)
    await look_at(tab.page, "sign-in")
    await tab.page.keyboard.type(office.keys["ada"])
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("heading", name="4 responses wait for you")).to_be_visible()
    await look_at(tab.page, "inbox-first")
    page, keys = tab.page, tab.page.keyboard

    await keys.press("n")
    await page.locator("#editor").wait_for()
    await look_at(page, "item")
    await keys.press("t")
    await page.locator("[data-t].level-4").first.wait_for()
    await keys.press("]")
    await keys.press("]")
    await keys.press("]")
    await look_at(page, "experts")
    await keys.press("Escape")
    await keys.press("d")
    await page.locator("#editor").focus()
    text = await page.locator("#editor").input_value()
    for before, after in FIXED:
        text = text.replace(before, after)
    await keys.press("Control+A")
    await keys.insert_text(text)
    await page.locator(".below ins").first.wait_for()
    await expect(page.locator(".draftstate")).to_have_text("Draft saved")
    await look_at(page, "edit")
    await keys.press("Escape")
    await keys.press("f")
    await page.get_by_role("dialog").wait_for()
    await look_at(page, "flag")
    await keys.press("Escape")
    await keys.press("?")
    await page.get_by_role("dialog").wait_for()
    await look_at(page, "keys")
    await keys.press("Escape")
    await keys.press("i")
    await page.get_by_role("heading", name="In your hands").wait_for()
    await look_at(page, "inbox")

    await _two_versions(office)
    boss = await visit(office.keys["ruth"], **size)
    await look_at(boss.page, "inbox-reviewer")
    await boss.page.keyboard.press("v")
    await boss.page.get_by_role("heading", name="Version B").wait_for()
    await look_at(boss.page, "review")
    await boss.page.keyboard.press("w")
    await boss.page.locator("#editor").wait_for()
    await look_at(boss.page, "review-own")

    newcomer = await visit(await office.person("newcomer"), path="#/item/unknown", **size)
    await newcomer.page.get_by_role("heading", name="This did not work").wait_for()
    await look_at(newcomer.page, "error")
    for item in ids:
        async with office.client(office.keys["ben"]) as ben:
            claim = await ben.claim(item=item)
            if claim is not None:
                await ben.submit(claim.id, Submission(decision="accept"))
    await newcomer.page.keyboard.press("i")
    await newcomer.page.get_by_role("heading", name="All done").wait_for()
    await look_at(newcomer.page, "inbox-empty")

    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert tab.errors == boss.errors == newcomer.errors == []


async def _two_versions(office: Office) -> None:
    """Ben and Cleo correct one more response in different ways."""
    text = "The sky is blue because the sea is blue, and the sky mirrors it. At night it's dark."
    edits = {
        "ben": text.replace(
            "the sea is blue, and the sky mirrors it",
            "air scatters blue light more than red",
        ),
        "cleo": (
            "The sky is blue because air scatters blue light about. At night there is no light to "
            "scatter, so it is dark."
        ),
    }
    from preceptor_clients.contract.corrections import NewItem
    from preceptor_clients.contract.schemas import FeedbackItem, Message, Prompt

    judged = FeedbackItem(
        id="j",
        kind="judge",
        score=0.2,
        source="judge-large",
        version="3",
        text="A common mistake: the sea mirrors the sky, not the other way round.",
    )
    item = NewItem(
        prompt=Prompt(messages=(Message(role="user", content="Why is the sky blue? Two lines."),)),
        response_text=text,
        feedback=(judged,),
        problem_id="blue-sky",
        reason="random share",
        priority=9.0,
    )
    guidelines = "Keep it **short** and true. Plain words."
    [known] = await office.add([item], "science", double_share=1.0, guidelines=guidelines)
    for name, edit in edits.items():
        async with office.client(office.keys[name]) as person:
            claim = await person.claim(item=known)
            comment = "Kept the second sentence as it was." if name == "ben" else None
            sent = Submission(decision="edit", text=edit, comment=comment)
            await person.submit(claim.id, sent)
