"""H4: people do everything with the keyboard, and lose nothing."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from preceptor_clients.contract.corrections import Submission

from .conftest import MakeItem, Office, OpenTab

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
NUMBERS = ("forty-one", "fifty", "sixty-three")


async def _fill(office: Office, new_item: MakeItem) -> list[str]:
    return await office.add([new_item(n, text) for n, text in enumerate(NUMBERS, 6)])


async def _open_next(page: Page) -> None:
    await page.keyboard.press("n")
    await page.locator("#editor").wait_for()


async def test_h4_whole_flow_by_keyboard_alone(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    ids = await _fill(office, new_item)
    tab = await visit()
    keys = tab.page.keyboard

    await keys.type(office.keys["ada"])
    await keys.press("Enter")
    await expect(tab.page.get_by_role("heading", name="3 responses wait for you")).to_be_visible()
    await keys.press("n")
    await expect(tab.page.locator("#editor")).to_have_value("forty-one")
    await keys.press("e")
    await keys.press("Control+A")
    await keys.type("forty-two")
    await expect(tab.page.locator(".below ins")).to_have_text("two")
    await keys.press("Control+Enter")
    await expect(tab.page.locator("#editor")).to_have_value("fifty")
    await keys.press("s")
    await keys.type("I cannot count that far")
    await keys.press("Enter")
    await expect(tab.page.locator("#editor")).to_have_value("sixty-three")
    await keys.press("a")
    await expect(tab.page.get_by_role("heading", name="All done")).to_be_visible()

    async with office.client(office.keys["ruth"]) as ruth:
        done = [await ruth.item(item) for item in ids]
    assert [d.summary.state for d in done] == ["done", "open", "done"]
    assert [v.text for v in done[0].versions] == ["forty-two"]
    assert done[1].history[0].reason == "I cannot count that far"
    assert (tab.errors, tab.foreign) == ([], [])


async def test_h4_an_edit_keeps_the_line_ends_that_nobody_touched(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    text = "first line\r\nsecond line\nthird line\rlast word"
    [item] = await office.add([new_item(1, text)])
    tab = await visit(office.keys["ada"])
    page, keys = tab.page, tab.page.keyboard
    await _open_next(page)
    await keys.press("e")
    await keys.press("Control+End")
    await keys.type("s")
    await expect(page.locator(".draftstate")).to_have_text("Draft saved")
    await page.reload()
    await expect(page.locator("#editor")).to_have_value(
        text.replace("\r\n", "\n").replace("\r", "\n") + "s"
    )

    await keys.press("Control+Enter")
    await expect(page.get_by_role("heading", name="All done")).to_be_visible()

    async with office.client(office.keys["ruth"]) as ruth:
        done = await ruth.item(item)
    assert [v.text for v in done.versions] == [text + "s"]


async def test_h4_review_by_keyboard_alone(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    [first, second] = await office.add(
        [new_item(1, "seventeen"), new_item(2, "nine")], "twice", double_share=1.0
    )
    for name in ("ada", "ben"):
        async with office.client(office.keys[name]) as person:
            for item in (first, second):
                claim = await person.claim(item=item)
                await person.submit(claim.id, Submission(decision="edit", text=f"{name} says"))
    tab = await visit(office.keys["ruth"])
    keys = tab.page.keyboard

    await keys.press("v")
    await expect(tab.page.get_by_role("heading", name="Version B")).to_be_visible()
    await keys.press("2")
    await expect(tab.page.locator(".version").first).to_contain_text("nine")
    await keys.press("w")
    await keys.press("Control+A")
    await keys.type("fourteen")
    await keys.press("Control+Enter")
    await expect(tab.page.get_by_role("heading", name="All done")).to_be_visible()

    async with office.client(office.keys["ruth"]) as ruth:
        chosen = [
            next(v for v in (await ruth.item(item)).versions if v.authoritative)
            for item in (first, second)
        ]
    assert [(v.person, v.text) for v in chosen] == [("ben", "ben says"), ("ruth", "fourteen")]
    assert (tab.errors, tab.foreign) == ([], [])


async def test_h4_draft_survives_reload_crash_of_the_server_and_another_browser(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    await office.add([new_item(1, "seventeen")])
    tab = await visit(office.keys["ada"])
    page, keys = tab.page, tab.page.keyboard
    await _open_next(page)
    await keys.press("e")
    await keys.press("Control+End")
    await keys.type(" and a half")
    await expect(page.locator(".draftstate")).to_have_text("Draft saved")

    await page.reload()
    await expect(page.locator("#editor")).to_have_value("seventeen and a half")
    office.kill()
    await keys.press("e")
    await keys.press("Control+End")
    await keys.type(", roughly")
    await expect(page.locator(".draftstate")).to_contain_text("Kept in this browser")
    await office.start()
    await expect(page.locator(".draftstate")).to_have_text("Draft saved")
    elsewhere = await visit(office.keys["ada"])
    await elsewhere.page.keyboard.press("j")
    await elsewhere.page.keyboard.press("Enter")

    await expect(elsewhere.page.locator("#editor")).to_have_value("seventeen and a half, roughly")


async def test_h4_text_typed_in_the_last_moment_survives_a_reload_without_a_server(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    await office.add([new_item(1, "seventeen")])
    tab = await visit(office.keys["ada"])
    page, keys = tab.page, tab.page.keyboard
    await _open_next(page)
    await page.route("**/draft", lambda route: route.abort())
    await keys.press("e")
    await keys.press("Control+End")
    await keys.type("!")

    await page.reload()

    await expect(page.locator("#editor")).to_have_value("seventeen!")


async def test_h4_two_windows_do_not_overwrite_each_other(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    [item] = await office.add([new_item(1, "seventeen")])
    one = await visit(office.keys["ada"])
    await _open_next(one.page)
    two = await visit(office.keys["ada"], path=f"#/item/{item}")

    for tab, text in ((one, " one"), (two, " two")):
        await tab.page.keyboard.press("e")
        await tab.page.keyboard.press("Control+End")
        await tab.page.keyboard.type(text)
        await expect(tab.page.locator(".draftstate[data-state]")).not_to_have_text("Saving…")

    await expect(two.page.locator(".banner")).to_contain_text("Another window")
    await two.page.get_by_role("button", name="Take the other one").press("Enter")
    await expect(two.page.locator("#editor")).to_have_value("seventeen one")
    await two.page.keyboard.press("e")
    await two.page.keyboard.press("Control+z")
    await expect(two.page.locator("#editor")).to_have_value("seventeen two")


async def test_h4_undo_redo_and_start_again(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    await office.add([new_item(1, "seventeen")])
    tab = await visit(office.keys["ada"])
    page, keys = tab.page, tab.page.keyboard
    await _open_next(page)
    await keys.press("e")
    await keys.press("Control+End")
    await keys.type(" cats")
    await keys.press("Escape")
    await keys.press("r")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await keys.press("Tab")
    await keys.press("Enter")
    await expect(page.locator("#editor")).to_have_value("seventeen")

    seen = []
    for key in ("Control+z", "Control+z", "Control+Shift+z"):
        await keys.press(key)
        seen.append(await page.locator("#editor").input_value())

    assert seen == ["seventeen cats", "seventeen", "seventeen cats"]


async def test_h4_keys_are_shown_changed_and_kept(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    await office.add([new_item(1, "seventeen")])
    tab = await visit(office.keys["ada"])
    page, keys = tab.page, tab.page.keyboard

    await keys.press("?")
    await page.locator("[data-command='work.accept']").press("Enter")
    await keys.press("s")
    await expect(page.locator(".note.bad")).to_contain_text("already means “Skip")
    await page.locator("[data-command='work.accept']").press("Enter")
    await keys.press("y")
    await expect(page.locator("[data-command='work.accept']")).to_have_text("y")
    await keys.press("Escape")
    await page.reload()
    await page.locator("h1").wait_for()
    await keys.press("n")
    await expect(page.get_by_role("button", name="Accept as it is y")).to_be_visible()
    await keys.press("a")
    await keys.press("y")

    await expect(page.get_by_role("heading", name="All done")).to_be_visible()


async def test_h4_time_runs_out_in_sight_and_the_text_is_kept(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    await office.add([new_item(1, "seventeen")], "short", lease_s=5)
    tab = await visit(office.keys["ada"])
    page, keys = tab.page, tab.page.keyboard
    await keys.press("n")

    await expect(page.locator(".banner")).to_contain_text("Your time with this item is up")
    await page.get_by_role("button", name="Take it again").press("Enter")

    await expect(page.locator(".banner")).to_be_hidden()
    await expect(page.locator(".lease")).to_contain_text("left")


async def test_h4_somebody_else_has_the_item(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    [item] = await office.add([new_item(1, "seventeen")], "short", lease_s=1)
    tab = await visit(office.keys["ada"])
    await tab.page.keyboard.press("n")
    await expect(tab.page.locator(".banner")).to_contain_text("Your time with this item is up")
    async with office.client(office.keys["ben"]) as ben:
        assert await ben.claim(item=item) is not None

    await tab.page.get_by_role("button", name="Take it again").press("Enter")

    await expect(tab.page.locator(".banner")).to_contain_text("another person has the item")


async def test_h4_the_live_difference_spells_both_texts(visit: OpenTab) -> None:
    tab = await visit()

    wrong = await tab.page.evaluate(
        """async () => {
          const { diff } = await import('./diff.js');
          const pieces = ['a', 'b', ' ', '\\n', 'foo', 'é', '😀', '  ', ',', 'x1', '\\r\\n'];
          let seed = 1;
          const below = n => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % n;
          const text = n => Array.from({length: n}, () => pieces[below(pieces.length)]).join('');
          const spelled = (runs, without) =>
            runs.filter(run => run.kind !== without).map(run => run.text).join('');
          const wrong = [];
          for (let n = 0; n < 3000; n++) {
            const before = text(below(40));
            const at = below(before.length + 1);
            const edited = before.slice(0, at) + text(3) + before.slice(at + 2);
            const after = n % 2 ? text(below(40)) : edited;
            const runs = diff(before, after);
            if (spelled(runs, 'ins') !== before || spelled(runs, 'del') !== after) wrong.push(n);
          }
          return wrong;
        }"""
    )

    assert wrong == []
