"""H5: whatever models and people write stays text, and the browser would refuse it otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from preceptor_clients.contract.corrections import Submission
from preceptor_clients.contract.schemas import FeedbackItem, Message, Prompt

from .conftest import MakeItem, Office, OpenTab

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# What each payload would run, were it ever more than text.
RUN = "window.__ran=(window.__ran||0)+1"
_TAGS = (
    "<script>{0}</script>",
    "<script src=data:text/javascript,{0}></script>",
    "<img src=x onerror='{0}'>",
    "<img src=x:x onerror={0}//>",
    "<svg onload='{0}'>",
    "<svg><script>{0}</script></svg>",
    "<svg><animate onbegin='{0}' attributeName=x dur=1s>",
    "<svg><a xlink:href='javascript:{0}'><text>x</text></a></svg>",
    "<math><mtext><img src=x onerror='{0}'></mtext></math>",
    "<body onload='{0}'>",
    "<iframe srcdoc='<script>parent.{0}</script>'></iframe>",
    "<iframe src='javascript:parent.{0}'></iframe>",
    "<object data='javascript:{0}'></object>",
    "<embed src='javascript:{0}'>",
    "<a href='javascript:{0}' autofocus onfocus='{0}'>x</a>",
    "<input autofocus onfocus='{0}'>",
    "<textarea autofocus onfocus='{0}'></textarea>",
    "<select autofocus onfocus='{0}'></select>",
    "<video><source onerror='{0}'></video>",
    "<audio src=x onerror='{0}'>",
    "<details open ontoggle='{0}'>x</details>",
    "<marquee onstart='{0}'>x</marquee>",
    "<style>@import 'data:text/css,*{{background:url(javascript:{0})}}'</style>",
    "<link rel=stylesheet href='data:text/css,*{{color:red}}' onload='{0}'>",
    "<meta http-equiv=refresh content='0;url=javascript:{0}'>",
    "<base href='data:text/html,<script>{0}</script>'>",
    "<form action='javascript:{0}'><button autofocus>x</button></form>",
    "<template><script>{0}</script></template>",
    "<div style='animation-name:x' onanimationstart='{0}'></div>",
    "<div popover onbeforetoggle='{0}'>x</div>",
    "<dialog open onfocusin='{0}'><input autofocus></dialog>",
    "<x contenteditable onfocus='{0}' autofocus>y</x>",
    "<button popovertarget=p onclick='{0}'>x</button>",
    "<noscript><p title='</noscript><img src=x onerror={0}>'></noscript>",
    "<plaintext onmouseover='{0}'>",
)
_BREAKS = (
    "{0}",
    "</textarea>{0}",
    "</pre></div>{0}",
    "'\"`>{0}",
    "-->{0}",
    "]]>{0}",
    "</title></style></script>{0}",
    "&lt;b&gt;{0}",
    "\u2028{0}\u2029",
    "%3Cscript%3E{0}",
)
_OTHERS = (
    "javascript:" + RUN,
    "[x](javascript:" + RUN + ")",
    "![x](x\" onerror=\"" + RUN + ")",
    "`<img src=x onerror=" + RUN + ">`",
    "**<img src=x onerror=" + RUN + ">**",
    "# <img src=x onerror=" + RUN + ">",
    "- <script>" + RUN + "</script>",
    "{{constructor.constructor('" + RUN + "')()}}",
    "${" + RUN + "}",
    "__proto__",
    "\x1b]8;;javascript:" + RUN + "\x1b\\x\x1b]8;;\x1b\\",
    "data:text/html,<script>" + RUN + "</script>",
)  # fmt: skip
PAYLOADS = tuple(
    dict.fromkeys(
        [tag.format(RUN) for tag in _TAGS]
        + [_BREAKS[n % len(_BREAKS)].format(tag.format(RUN)) for n, tag in enumerate(_TAGS, 1)]
        + [_BREAKS[n % len(_BREAKS)].format(tag.format(RUN)) for n, tag in enumerate(_TAGS, 4)]
        + list(_OTHERS)
    )
)
BATCH = 28
_WATCH = """
addEventListener('securitypolicyviolation', e => {
  (window.__refused ||= []).push(e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sample);
});
"""


def _item(new_item: MakeItem, number: int, payloads: tuple[str, ...]) -> Any:
    """One item with payloads at every place that a sender can write."""
    text = "\n\n".join(payloads)
    return new_item(
        number,
        text,
        prompt=Prompt(
            messages=tuple(Message(role=r, content=text) for r in ("system", "user", "tool"))
        ),
        feedback=tuple(
            FeedbackItem(
                id=f"f{n}", kind=kind, text=text, error=error, score=0.5, source="s", version="1"
            )
            for n, (kind, error) in enumerate(
                (("execution", None), ("judge", None), ("comment", text), ("demonstration", None))
            )
        ),
        problem_id=payloads[0][:120],
        reason=payloads[1][:200],
        details={payloads[2]: text},
    )


async def test_h5_a_hundred_stored_payloads_are_inert(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    batches = [PAYLOADS[n : n + BATCH] for n in range(0, len(PAYLOADS), BATCH)]
    for number, batch in enumerate(batches):
        rules = {"guidelines": "\n\n".join(batch), "review": "always"}
        await office.add([_item(new_item, number, batch)], f"round-{number}", **rules)
    tab = await visit()
    page, keys = tab.page, tab.page.keyboard
    await page.add_init_script(_WATCH)
    await page.reload()
    await keys.type(office.keys["ada"])
    await keys.press("Enter")
    await page.get_by_role("heading", name="responses wait for you").wait_for()

    seen = ""
    await keys.press("n")
    for _ in batches:
        await page.locator("#editor").wait_for()
        title = await page.locator("h1").inner_text()
        seen += await page.locator("main").inner_text()
        await keys.press("e")
        await keys.press("Control+End")
        await keys.insert_text(PAYLOADS[2])
        await keys.press("Escape")
        await keys.press("c")
        await keys.insert_text(PAYLOADS[0])
        await page.locator(".below ins").wait_for()
        await keys.press("Control+Enter")
        await expect(page.locator("h1")).not_to_have_text(title)
    await page.evaluate("k => sessionStorage.setItem('preceptor-key', k)", office.keys["ruth"])
    await page.reload()
    await page.get_by_role("heading", name="Ready for your decision").wait_for()
    await keys.press("v")
    for _ in batches:
        await page.get_by_role("heading", name="Version A").wait_for()
        title = await page.locator("h1").inner_text()
        seen += await page.locator("main").inner_text()
        await keys.press("1")
        await expect(page.locator("h1")).not_to_have_text(title)

    assert len(PAYLOADS) >= 100
    assert await page.evaluate("window.__ran") is None
    assert await page.evaluate("window.__refused") is None
    assert tab.foreign == []
    assert tab.errors == []
    flat = " ".join(seen.split())
    assert [p for p in PAYLOADS if " ".join(p.split()) not in flat and "\x1b" not in p] == []


async def test_h5_the_policy_refuses_what_the_page_never_does(
    office: Office, visit: OpenTab
) -> None:
    tab = await visit()

    refused = await tab.page.evaluate(
        # In a task of its own: what a debugger itself evaluates is free of the policy.
        """() => new Promise(resolve => setTimeout(() => {
          const tried = {};
          const note = (name, act) => {
            try { act(); tried[name] = 'done'; } catch (e) { tried[name] = e.constructor.name; }
          };
          note('innerHTML', () => { document.createElement('p').innerHTML = '<b>x</b>'; });
          note('eval', () => { (0, eval)('window.__ran = 1'); });
          note('Function', () => { new Function('window.__ran = 1')(); });
          note('inline', () => {
            const script = document.createElement('script');
            script.text = 'window.__ran = 1';
            document.head.append(script);
          });
          tried.ran = window.__ran ?? null;
          resolve(tried);
        }))"""
    )

    assert refused == {
        "innerHTML": "TypeError",
        "eval": "EvalError",
        "Function": "EvalError",
        "inline": "TypeError",
        "ran": None,
    }


async def test_h5_people_with_odd_keys_and_names_are_refused_in_words(
    office: Office, visit: OpenTab
) -> None:
    tab = await visit()
    page, keys = tab.page, tab.page.keyboard

    await keys.type("nobody-has-this-key")
    await keys.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("Nobody has this key")
    await keys.type("ключ")
    await keys.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("no special letters")

    assert await page.evaluate("sessionStorage.getItem('preceptor-key')") is None


async def test_h5_nobody_else_may_frame_or_sniff_the_page(office: Office) -> None:
    import httpx

    async with httpx.AsyncClient() as client:
        page = await client.get(office.page_url)
        script = await client.get(office.page_url + "app.js")
        again = await client.get(
            office.page_url + "app.js", headers={"if-none-match": script.headers["etag"]}
        )
        elsewhere = await client.get(office.page_url + "..%2f__init__.py")

    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<style" not in page.text
    assert "onclick" not in page.text
    assert again.status_code == 304
    assert elsewhere.status_code == 404


async def test_h5_versions_of_others_are_text_too(
    office: Office, visit: OpenTab, new_item: MakeItem
) -> None:
    [item] = await office.add([new_item(1, "seventeen")], "odd", review="always")
    async with office.client(office.keys["ada"]) as ada:
        claim = await ada.claim(item=item)
        bad = "<img src=x onerror=" + RUN + ">"
        await ada.submit(claim.id, Submission(decision="edit", text=bad, comment=bad))
    tab = await visit(office.keys["ruth"], path=f"#/review/{item}")

    await expect(tab.page.locator("ins").first).to_contain_text("<img src=x")

    assert await tab.page.evaluate("window.__ran") is None
    assert tab.foreign == []
