"""Claims, versions and reviews through the real routes, on both databases."""

from __future__ import annotations

import pytest

from preceptor_clients.contract.corrections import RoundSettings, Submission
from preceptor_clients.contract.errors import Conflict, Forbidden, NotFound, Unauthorised

from .conftest import Office


def edit(text: str, comment: str | None = None) -> Submission:
    return Submission(decision="edit", text=text, comment=comment)


async def test_an_edit_goes_from_the_queue_to_the_results(office: Office) -> None:
    [item_id] = await office.fill(1)
    ann = await office.person("ann")

    claim = await ann.claim()
    assert claim is not None
    submitted = await ann.submit(claim.id, edit("answer one"))
    results = await office.tool("trainer").results()

    assert claim.item.summary.id == item_id
    assert claim.item.response_text == "answer 0"
    assert submitted.item_state == "done"
    [result] = results.results
    assert (result.kind, result.item, result.text, result.person) == (
        "settled",
        item_id,
        "answer one",
        "ann",
    )
    assert await ann.claim() is None


async def test_a_double_is_blind_and_goes_to_a_reviewer_where_it_differs(office: Office) -> None:
    [item_id] = await office.fill(1, double_share=1.0)
    ann, bob = await office.person("ann"), await office.person("bob")
    eve = await office.person("eve", "reviewer")

    first, second = await ann.claim(), await bob.claim()
    assert first is not None
    assert second is not None
    await ann.submit(first.id, edit("A"))
    seen_by_bob = await bob.item(item_id)
    done = await bob.submit(second.id, edit("B"))
    seen_by_eve = await eve.item(item_id)
    chosen = next(v for v in seen_by_eve.versions if v.text == "B")
    await eve.review(item_id, "approve", version=chosen.id)

    assert seen_by_bob.versions == ()
    assert (seen_by_bob.summary.wanted, seen_by_bob.summary.submitted) == (1, 0)
    assert done.item_state == "review"
    assert {v.person for v in seen_by_eve.versions} == {"ann", "bob"}
    [result] = (await office.tool("trainer").results()).results
    assert (result.text, result.person, result.reviewer) == ("B", "bob", "eve")
    figures = await eve.agreement("r")
    assert (figures.pairs, figures.same_decision, figures.same_text) == (1, 1.0, 0.0)
    assert figures.upheld == {"ann": 0.0, "bob": 1.0}


async def test_doubles_that_agree_need_no_reviewer(office: Office) -> None:
    await office.fill(1, double_share=1.0)
    ann, bob = await office.person("ann"), await office.person("bob")

    for person in (ann, bob):
        claim = await person.claim()
        assert claim is not None
        last = await person.submit(claim.id, edit("same"))

    assert last.item_state == "done"


async def test_an_expired_lease_frees_the_item_for_others(office: Office) -> None:
    [item_id] = await office.fill(1, lease_s=10)
    ann, bob = await office.person("ann"), await office.person("bob")
    lost = await ann.claim()
    assert lost is not None
    assert await bob.claim() is None

    office.clock.moved_s += 11
    taken = await bob.claim()
    with pytest.raises(Conflict, match="another person"):
        await ann.submit(lost.id, edit("too late"))

    assert taken is not None
    assert taken.item.summary.id == item_id
    assert (await ann.item(item_id)).draft.text == "too late"


async def test_a_late_submission_counts_while_the_place_is_free(office: Office) -> None:
    await office.fill(1, lease_s=10)
    ann = await office.person("ann")
    claim = await ann.claim()
    assert claim is not None

    office.clock.moved_s += 11
    submitted = await ann.submit(claim.id, edit("slow but right"))

    assert submitted.item_state == "done"


async def test_renewal_keeps_an_item_beyond_its_first_lease(office: Office) -> None:
    await office.fill(1, lease_s=10)
    ann, bob = await office.person("ann"), await office.person("bob")
    claim = await ann.claim()
    assert claim is not None

    for _ in range(3):
        office.clock.moved_s += 8
        lease = await ann.renew(claim.id)
    others = await bob.claim()

    assert others is None
    assert lease.lease_until - lease.now == pytest.approx(10, abs=0.5)


async def test_a_skipped_item_is_not_offered_again_and_ends_with_a_reviewer(office: Office) -> None:
    [item_id] = await office.fill(1, max_skips=2)
    ann, bob = await office.person("ann"), await office.person("bob")
    first = await ann.claim()
    assert first is not None

    await ann.skip(first.id, "I do not know this language")
    again = await ann.claim()
    second = await bob.claim()
    assert second is not None
    await bob.skip(second.id, "nor do I")
    eve = await office.person("eve", "reviewer")

    assert again is None
    view = await eve.item(item_id)
    assert view.summary.state == "review"
    assert [event.reason for event in view.history] == [
        "I do not know this language",
        "nor do I",
    ]


async def test_a_flagged_item_waits_for_a_reviewer_who_may_reopen_or_discard(
    office: Office,
) -> None:
    [item_id] = await office.fill(1)
    ann = await office.person("ann")
    eve = await office.person("eve", "reviewer")
    claim = await ann.claim()
    assert claim is not None

    await ann.flag(claim.id, "the prompt holds an address")
    flagged = await eve.item(item_id)
    await eve.review(item_id, "reopen", comment="removed")
    again = await ann.claim()
    ended = await eve.review(item_id, "discard")

    assert flagged.summary.state == "review"
    assert again is not None
    assert ended.summary.state == "ended"
    with pytest.raises(Conflict, match="settled"):
        await ann.submit(again.id, edit("x"))


async def test_history_is_added_to_and_never_overwritten(office: Office) -> None:
    [item_id] = await office.fill(1, review="always")
    ann = await office.person("ann")
    eve = await office.person("eve", "reviewer")
    claim = await ann.claim()
    assert claim is not None

    await ann.submit(claim.id, edit("first"))
    await ann.submit(claim.id, edit("second"))
    await ann.submit(claim.id, edit("second"))
    versions = (await eve.item(item_id)).versions
    await eve.review(item_id, "approve", version=versions[0].id)
    view = await eve.review(item_id, "approve", submission=edit("third"), comment="better")

    assert [v.text for v in view.versions] == ["first", "second", "third"]
    assert [v.authoritative for v in view.versions] == [False, False, True]
    assert [r.verdict for r in view.reviews] == ["approve", "approve"]
    kinds = [r.kind for r in (await office.tool("trainer").results()).results]
    assert kinds == ["settled", "revised"]


async def test_a_budget_is_never_overspent(small_office: Office) -> None:
    await small_office.fill(3, budget=3)
    tool = small_office.tool("trainer")
    more = [small_office.new_item(i) for i in range(2, 6)]

    taken = await tool.add_items("r", more)

    assert [item.state for item in taken] == ["known", *["over_budget"] * 3]
    [round_] = [r for r in await (await small_office.person("ann")).rounds() if r.name == "r"]
    assert round_.counts.total == 3


async def test_drafts_stay_on_the_server_and_windows_do_not_overwrite_each_other(
    office: Office,
) -> None:
    [item_id] = await office.fill(1)
    ann = await office.person("ann")
    await ann.claim()

    saved = await ann.save_draft(item_id, text="half", revision=0)
    with pytest.raises(Conflict, match="another window"):
        await ann.save_draft(item_id, text="stale", revision=0)
    more = await ann.save_draft(item_id, text="half done", revision=saved.revision)
    [held] = await ann.claims()

    assert more.revision == 2
    assert held.item.draft.text == "half done"


async def test_keys_open_what_their_role_may_and_nothing_once_revoked(small_office: Office) -> None:
    [item_id] = await small_office.fill(1)
    ann = await small_office.person("ann")

    with pytest.raises(Forbidden):
        await ann.review(item_id, "discard")
    with pytest.raises(NotFound):
        await ann.item(item_id)
    with pytest.raises(Forbidden):
        await small_office.tool("trainer").people()
    with pytest.raises(Unauthorised):
        await small_office.annotator("trainer-" + "k" * 40).me()
    issued = await small_office.tool().new_key("ann")
    with pytest.raises(Unauthorised):
        await ann.me()
    renewed = small_office.annotator(issued.key)
    assert (await renewed.me()).person.name == "ann"
    await small_office.tool().revoke_key("ann")
    with pytest.raises(Unauthorised):
        await renewed.me()


async def test_progress_is_counted_from_the_rows(small_office: Office) -> None:
    await small_office.fill(5)
    ann = await small_office.person("ann")
    for submission in (edit("x"), Submission(decision="accept")):
        claim = await ann.claim()
        assert claim is not None
        await ann.submit(claim.id, submission)
    claim = await ann.claim()
    assert claim is not None
    await ann.skip(claim.id, "no")
    await ann.claim()

    progress = (await ann.me()).progress

    assert (progress.submitted, progress.edited, progress.accepted) == (2, 1, 1)
    assert (progress.skipped, progress.claimed, progress.available) == (1, 1, 1)


async def test_an_export_can_be_imported_elsewhere(small_office: Office) -> None:
    await small_office.fill(2)
    ann = await small_office.person("ann")
    claim = await ann.claim()
    assert claim is not None
    await ann.submit(claim.id, edit("exported"))
    tool = small_office.tool()

    lines = [line async for line in tool.export("r")]
    first = await tool.import_lines("copy", lines)
    second = await tool.import_lines("copy", lines)

    assert (first.items, first.versions) == (2, 1)
    assert (second.items, second.versions) == (0, 0)
    [copied] = (await tool.results(round_name="copy")).results
    assert (copied.text, copied.person) == ("exported", "ann")


async def test_a_run_that_starts_again_keeps_the_rules_that_people_have_set(office: Office) -> None:
    trainer = office.tool("trainer")
    await trainer.put_round("r", RoundSettings(budget=5), keep=True)
    await office.tool().put_round("r", RoundSettings(budget=9, closed=True))

    again = await trainer.put_round("r", RoundSettings(budget=5), keep=True)

    assert (again.settings.budget, again.settings.closed) == (9, True)


async def test_what_waits_for_people_and_what_they_did_is_among_the_metrics(office: Office) -> None:
    await office.fill(3)
    ann = await office.person("ann")
    first = await ann.claim()
    await ann.submit(first.id, edit("better"))
    await ann.claim()

    reader = office.gateway_client("reader")
    text = (await reader.exchange("GET", "/metrics")).body.decode()

    assert 'preceptor_correction_items{state="done"} 1.0' in text
    assert 'preceptor_correction_items{state="open"} 2.0' in text
    assert 'preceptor_correction_items{state="ended"} 0.0' in text
    assert 'preceptor_correction_versions{decision="edit"} 1.0' in text
    assert "preceptor_correction_claims 1.0" in text
