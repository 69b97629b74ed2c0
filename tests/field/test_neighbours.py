"""One bad item never refuses its neighbours, and texts hold any characters, on each database."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_clients.contract.corrections import RoundSettings, Submission
from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_services.dispatcher.reporting import HeldJob, Reporter

from ..services.corrections.conftest import Office
from ..services.world import World

ODD = "a\0b \ufdd0 \ufdd00 \x1b[0m \u2028 \U0001f600 end"


async def test_any_text_is_taken_in_worked_on_and_exported(office: Office) -> None:
    tool, ann = office.tool(), await office.person("ann")
    item = FeedbackItem(id="f", kind="comment", text=ODD, source="s", version="1")
    await tool.put_round("r", RoundSettings(double_share=0.0, guidelines=ODD))
    new = [
        office.new_item(0, ODD, reason=ODD, problem_id="p", feedback=(item,)),
        office.new_item(1, "plain"),
    ]

    taken = await tool.add_items("r", new)
    claim = await ann.claim()
    await ann.submit(claim.id, Submission(decision="edit", text=ODD + "!", comment=ODD))

    assert [one.state for one in taken] == ["new", "new"]
    assert [one.state for one in await tool.add_items("r", new)] == ["known", "known"]
    lines = {line.id: line async for line in tool.export("r")}
    line = lines[claim.item.summary.id]
    assert {one.item.response_text for one in lines.values()} == {ODD, "plain"}
    assert lines[taken[0].id].item.reason == ODD
    assert lines[taken[0].id].item.feedback[0].text == ODD
    assert [(v.text, v.comment) for v in line.versions] == [(ODD + "!", ODD)]


@pytest.mark.parametrize("way", ["skip", "flag"])
async def test_any_reason_is_kept(office: Office, way: str) -> None:
    ann, rita = await office.person("ann"), await office.person("rita", "reviewer")
    [item_id] = await office.fill(1)

    claim = await ann.claim()
    await getattr(ann, way)(claim.id, ODD)

    assert [event.reason for event in (await rita.item(item_id)).history] == [ODD]


async def test_a_draft_of_any_text_comes_back(office: Office) -> None:
    ann = await office.person("ann")
    [item_id] = await office.fill(1)
    await ann.claim()

    await ann.save_draft(item_id, text=ODD, comment=ODD, revision=0)

    draft = (await ann.item(item_id)).draft
    assert (draft.text, draft.comment) == (ODD, ODD)


async def test_any_comment_of_a_reviewer_and_reason_for_leaving_is_kept(office: Office) -> None:
    ann, rita = await office.person("ann"), await office.person("rita", "reviewer")
    [item_id] = await office.fill(1, review="always")
    claim = await ann.claim()
    handed_in = await ann.submit(claim.id, Submission(decision="edit", text=ODD))

    view = await rita.review(item_id, "approve", version=handed_in.version.id, comment=ODD)
    retired = await office.tool().retire("ann", ODD)

    assert [review.comment for review in view.reviews] == [ODD]
    assert retired.versions


class NoLeases:
    """Keeps what was acknowledged."""

    def __init__(self) -> None:
        self.over: list[Any] = []

    async def done(self, deliveries: Any) -> None:
        self.over += deliveries

    def forget(self, deliveries: Any) -> None:
        raise AssertionError("nothing is to come again")


async def test_one_oversized_answer_fails_alone(world: World) -> None:
    submissions = [world.submission(f"k{n}", (1, 2, n), group_id="g") for n in range(3)]
    posted = await world.trainer.submit_logprobs("uniform", submissions, batching="group")
    [job] = (await world.claim(world.queue.take())).jobs
    results = [world.result(job, item) for item in job.items]
    # This gateway takes 1 MiB at a time.
    huge = results[1].prefix.model_copy(update={"truncated": ("x" * (2 << 20),)})
    results[1] = results[1].model_copy(update={"prefix": huge})
    leases = NoLeases()

    held = HeldJob("delivery", job, 0.0)  # type: ignore[arg-type]
    reporter = Reporter(world.clients["dispatcher"], leases, "d1")  # type: ignore[arg-type]
    await reporter.report_all([held], results, 1.0)

    found = await world.trainer.collect_logprobs([one.ticket.id for one in posted])
    assert [one.answer is not None for one in found] == [True, False, True]
    assert "refused" in found[1].problem.detail
    assert leases.over == ["delivery"]
