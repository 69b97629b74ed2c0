"""The people of `corrections.py`: scripts that use the queue through its HTTP API like anybody."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from preceptor_clients.contract.corrections import ItemView, Result, Submission
from preceptor_clients.contract.errors import Conflict
from preceptor_clients.contract.schemas import FeedbackItem, Trace
from preceptor_clients.http.corrections import AnnotatorClient, CorrectionsClient
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.people.people import People
from preceptor_trainer.tasks.programming_by_example.problems import Problem

ANSWER_S: Final = 600.0


def nearest_right(problem: Problem, text: str) -> str:
    """The right answer that changes least of `text`."""
    return min(
        problem.behaviour.texts,
        key=lambda right: (-difflib.SequenceMatcher(None, text, right).ratio(), len(right), right),
    )


def overlooks(item: ItemView) -> bool:
    """Whether a hurried person takes this response for right: every second one."""
    return hashlib.sha256(item.response_text.encode()).digest()[0] % 2 == 0


class Office:
    """Two people and a reviewer, who work through the queue's HTTP API as anybody does."""

    def __init__(
        self, url: str, admin_key: str, trainer_key: str, problems: Sequence[Problem]
    ) -> None:
        self._url = url
        self._admin = CorrectionsClient(url, admin_key)
        self._tool = CorrectionsClient(url, trainer_key)
        self._problems = {problem.id: problem for problem in problems}
        self.at_once: dict[str, frozenset[str]] = {}
        """By run, rollouts that another run's people had answered for already."""

    async def open(self) -> None:
        """Lets everybody in."""
        self._ann = await self._person("ann", "annotator")
        self._ben = await self._person("ben", "annotator")
        self._rita = await self._person("rita", "reviewer")

    async def _person(self, name: str, role: Any) -> AnnotatorClient:
        try:
            key = (await self._admin.add_person(name, role)).key
        except Conflict:  # an earlier start let them in
            key = (await self._admin.new_key(name)).key
        return AnnotatorClient(self._url, key)

    async def close(self) -> None:
        """Closes connections."""
        for client in (self._ann, self._ben, self._rita, self._admin, self._tool):
            await client.aclose()

    async def work_off(self, round_name: str) -> None:
        """Everything that the round has for them now."""
        # Ann takes what there is; what is left for Ben is what wants a second opinion. He is in a
        # hurry: where he overlooks the mistake, the two differ and Rita decides.
        await self._correct(self._ann, round_name)
        await self._correct(self._ben, round_name, hurried=True)
        for item in (await self._rita.items(round_name=round_name, state="review")).items:
            view = await self._rita.item(item.id)
            kept = nearest_right(self._problems[item.problem_id or ""], view.response_text)
            [version] = [v for v in view.versions if v.text == kept][:1]
            await self._rita.review(item.id, "approve", version=version.id)

    async def _correct(
        self, person: AnnotatorClient, round_name: str, *, hurried: bool = False
    ) -> None:
        while (claim := await person.claim(round_name)) is not None:
            problem = self._problems[claim.item.summary.problem_id or ""]
            text = nearest_right(problem, claim.item.response_text)
            done = Submission(decision="edit", text=text)
            if hurried and overlooks(claim.item):
                done = Submission(decision="accept")
            await person.submit(claim.id, done)

    async def agrees(self, correction: FeedbackItem) -> bool:
        """Whether the queue's history has this edit by this person, decided by this reviewer."""
        details = correction.details
        view = await self._rita.item(str(details["item"]))
        deciders = [r.reviewer for r in view.reviews if r.verdict == "approve"]
        return any(
            version.text == correction.text
            and version.person == details["person"]
            and version.authoritative
            and (deciders[-1] if deciders else None) == details["reviewer"]
            for version in view.versions
        )

    async def settled(self, run: str) -> list[Result]:
        """What people have settled of a run's rollouts."""
        return list((await self._tool.results(run=run, limit=1000)).results)

    async def wait_for_answers(self, people: People, run: str) -> None:
        """Until every settled correction has its answer at the gateway."""
        settled = {result.rollout_id for result in await self.settled(run)}
        until = time.monotonic() + ANSWER_S
        self.at_once[run] = self.at_once.get(run, frozenset()) | people.answered_at_once
        while not settled <= self.at_once[run] | {
            a.rollout_id for a in (await people.gateway.arrivals(run)).arrivals
        }:
            if time.monotonic() > until:
                raise TimeoutError(f"{run}: people's answers did not arrive in {ANSWER_S:g} s")
            await asyncio.sleep(0.2)


async def traced(
    gateway: GatewayClient, office: Office, targets: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """How many targets of corrections trace, at a labelled token, to who made and decided them.

    Each target is asked about at one token, which its id decides. What its trace says is held
    against the queue's own history of the item.
    """
    counts = {"made": len(targets), "traced": 0, "traced_to_reviewer": 0}
    agreed: dict[str, bool] = {}
    for target, positions in targets.items():
        place = int(hashlib.sha256(target.encode()).hexdigest(), 16) % len(positions)
        item = _behind(await gateway.trace(target, positions[place]))
        if item is None:
            continue
        if item.id not in agreed:
            agreed[item.id] = await office.agrees(item)
        counts["traced"] += agreed[item.id]
        counts["traced_to_reviewer"] += agreed[item.id] and item.details["reviewer"] is not None
    return counts


def _behind(trace: Trace) -> FeedbackItem | None:
    """The correction that a trace ends at."""
    found = [item for source in trace.sources for item in source.feedback]
    return next((item for item in found if item.kind == "correction"), None)
