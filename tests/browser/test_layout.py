"""Where things stand: on a phone, at 200 % zoom, in texts that run from right to left."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from preceptor_clients.contract.corrections import Submission

from .conftest import MakeItem, Office, OpenTab

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
PHONE = {"width": 360, "height": 740}
TABLET = {"width": 768, "height": 1024}
DESK = {"width": 1280, "height": 800}
ZOOMED = {"width": 640, "height": 400}
"""A window of 1280 × 800 at 200 %."""
ARABIC = "عاصمة مصر هي القاهرة، وهي أكبر مدينة."
OUTSIDE = """
    (place) => [...document.querySelectorAll(place)].filter((node) => {
        const box = node.getBoundingClientRect();
        const outer = node.parentElement.getBoundingClientRect();
        return box.left < outer.left - 1 || box.right > Math.min(outer.right, innerWidth) + 1 ||
            box.top < outer.top - 1 || box.bottom > outer.bottom + 1;
    }).map((node) => node.textContent)
"""
COVERED = """
    () => [...document.querySelectorAll('.bar, .workhead, .panetabs, .editor, .actions')]
        .filter((node) => {
            const box = node.getBoundingClientRect();
            return [...document.querySelectorAll('.note')].some((note) => {
                const over = note.getBoundingClientRect();
                return over.top < box.bottom && over.bottom > box.top && box.height;
            });
        }).map((node) => node.className)
"""


async def at_work(office: Office, visit: OpenTab, item: Any, size: dict[str, int]) -> Page:
    [item_id] = await office.add([item])
    tab = await visit(office.keys["ada"], path=f"#/item/{item_id}", **size)
    await tab.page.locator("#editor").wait_for()
    return tab.page


async def test_tabs_are_whole_on_a_phone(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    page = await at_work(office, visit, new_item(1, "seven"), PHONE)
    await page.locator("#editor").fill("the quick brown fox\n" * 40)
    await page.locator(".below ins").first.wait_for()

    cut = await page.evaluate(OUTSIDE, ".tabs button, .panetabs button, .bar button")

    assert cut == []


@pytest.mark.parametrize("size", [PHONE, TABLET, DESK], ids=["phone", "tablet", "desk"])
async def test_tabs_have_their_full_height_at_every_width(
    office: Office, visit: OpenTab, new_item: MakeItem, size: dict[str, int]
) -> None:
    page = await at_work(office, visit, new_item(1, "seven"), size)

    assert await page.evaluate(OUTSIDE, ".tabs button") == []


async def test_texts_run_in_their_own_direction(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    page = await at_work(office, visit, new_item(1, ARABIC), DESK)
    direction = "(place) => getComputedStyle(document.querySelector(place)).direction"

    editor = await page.evaluate(direction, "#editor")
    prompt = await page.evaluate(direction, ".pane-prompt .block")
    await page.locator("#comment").fill(ARABIC)
    comment = await page.evaluate(direction, "#comment")
    await page.keyboard.press("Escape")
    await page.keyboard.press("i")
    await page.locator(".excerpt").first.wait_for()
    excerpt = await page.evaluate(direction, ".excerpt")

    assert (editor, comment, excerpt, prompt) == ("rtl", "rtl", "rtl", "ltr")


async def test_bars_leave_more_than_half_of_the_window_at_200_percent(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    page = await at_work(office, visit, new_item(1, "seven " * 400), ZOOMED)

    top = await page.evaluate("document.querySelector('.editor').getBoundingClientRect().top")
    bottom = await page.evaluate("document.querySelector('.actions').getBoundingClientRect().top")

    assert (bottom - top) / ZOOMED["height"] > 0.5
    assert await page.evaluate(OUTSIDE, ".actions button, .bar button") == []


@pytest.mark.parametrize("size", [PHONE, ZOOMED, DESK], ids=["phone", "zoomed", "desk"])
async def test_notes_cover_nothing(
    office: Office, visit: OpenTab, new_item: MakeItem, size: dict[str, int]
) -> None:
    page = await at_work(office, visit, new_item(1, "seven"), size)
    await page.evaluate("document.activeElement.blur()")

    await page.keyboard.press("v")
    await expect(page.locator(".note")).to_have_text("Reviewing is for reviewers.")

    assert await page.evaluate(COVERED) == []


async def test_a_note_pushes_down_what_is_in_view_of_a_scrolled_page(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    page = await at_work(office, visit, new_item(1, "seven\n" * 80), PHONE)
    await page.get_by_role("tab", name="Original").click()
    await page.evaluate("scrollTo(0, 250)")
    top = "document.querySelector('.below').getBoundingClientRect().top"
    before = await page.evaluate(top)

    await page.keyboard.press("v")
    await page.locator(".note").wait_for()
    height = await page.evaluate("document.querySelector('.notes').offsetHeight")

    assert await page.evaluate(top) == pytest.approx(before + height, abs=2)


async def test_an_empty_text_is_handed_in_only_when_it_is_meant(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    page = await at_work(office, visit, new_item(1, "seven"), DESK)
    await page.locator("#editor").fill("  ")

    await page.keyboard.press("Control+Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("Hand in an empty response?")
    await page.keyboard.press("Escape")
    async with office.client(office.keys["ada"]) as ada:
        [held] = await ada.claims()
    await page.keyboard.press("Control+Enter")
    await page.get_by_role("button", name="Hand in empty").click()
    await expect(page.locator(".note")).to_have_text(
        ["Edit handed in.", "Nothing is left for you to do. Thank you."]
    )

    async with office.client(office.keys["ruth"]) as ruth:
        [version] = (await ruth.item(held.item.summary.id)).versions
    assert (version.decision, version.text) == ("edit", "  ")


async def test_an_unchanged_text_is_asked_about_and_then_accepted(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    page = await at_work(office, visit, new_item(1, "seven"), DESK)
    async with office.client(office.keys["ada"]) as ada:
        [held] = await ada.claims()

    await page.keyboard.press("Control+Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("Nothing is changed")
    await page.get_by_role("dialog").get_by_role("button", name="Accept as it is").click()
    await page.get_by_text("Accepted.").wait_for()

    async with office.client(office.keys["ruth"]) as ruth:
        [version] = (await ruth.item(held.item.summary.id)).versions
    assert version.decision == "accept"


async def test_a_rounds_card_leads_to_its_items(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    await office.add([new_item(1, "one")], "first-round", guidelines="")
    await office.add([new_item(2, "two")], "second")
    tab = await visit(office.keys["ruth"])

    await tab.page.get_by_role("link", name="Items of first-round").click()

    await expect(tab.page.locator("#items .excerpt")).to_have_text(["one"])
    await expect(tab.page.get_by_role("combobox", name="Round")).to_have_value("first-round")
    assert tab.errors == []


async def test_a_reviewer_sees_what_a_version_changed(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    [item] = await office.add([new_item(1, "one two")], "always", review="always")
    async with office.client(office.keys["ada"]) as ada:
        claim = await ada.claim(item=item)
        await ada.submit(claim.id, Submission(decision="edit", text="one three"))

    tab = await visit(office.keys["ruth"], path=f"#/review/{item}")

    await expect(tab.page.locator(".version ins")).to_have_text("three")
    assert tab.errors == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Whether anybody has judged this response is not known here."),
        ({"judged_by_nobody": True}, "No feedback source was asked about this response."),
    ],
    ids=["unknown", "nobody"],
)
async def test_the_page_says_what_is_known_about_judgements(
    office: Office, visit: OpenTab, new_item: MakeItem, fields: dict[str, Any], said: str
) -> None:
    page = await at_work(office, visit, new_item(1, "seven", **fields), DESK)

    await expect(page.locator(".pane-feedback .none")).to_have_text(said)
