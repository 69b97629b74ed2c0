"""Clients of the correction queue: for annotators, for admins, for the people's expert.

    async with AnnotatorClient(url, key) as queue:
        while (claim := await queue.claim()) is not None:
            await queue.submit(claim.id, Submission(decision="edit", text=corrected(claim.item)))

A script that corrects items is an annotator too: it has a name, a key and a history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

from preceptor_clients.contract import wire
from preceptor_clients.contract.corrections import (
    Agreement,
    Asked,
    ByHand,
    Claim,
    Claimed,
    Claims,
    ClaimWish,
    Decide,
    Draft,
    DraftSave,
    Due,
    DueAnswers,
    ExpertsView,
    ExportLine,
    ExportPage,
    Given,
    Imported,
    ImportLines,
    IssuedKey,
    ItemPage,
    ItemState,
    ItemView,
    Lease,
    Lookup,
    Me,
    NewItem,
    NewItems,
    NewPerson,
    Person,
    PersonList,
    Questions,
    Results,
    Retire,
    Retirement,
    Role,
    Round,
    Rounds,
    RoundSettings,
    Submission,
    Submitted,
    TakenItem,
    TakenItems,
    Vocabulary,
    WithReason,
)
from preceptor_clients.contract.parts import fitting
from preceptor_clients.contract.schemas import Prompt
from preceptor_clients.http.connection import HttpClient

_ROOT = "/v1/corrections"


class AnnotatorClient(HttpClient):
    """Calls of one person, with their own key; reviewers may also call `review`."""

    async def me(self) -> Me:
        """The person of this key and their own figures."""
        return await self.call("GET", f"{_ROOT}/me", reply=Me)

    async def rounds(self) -> tuple[Round, ...]:
        """Every round, newest first."""
        return (await self.call("GET", f"{_ROOT}/rounds", reply=Rounds)).rounds

    async def claim(self, round_name: str | None = None, item: str | None = None) -> Claim | None:
        """The next item under a lease; None where nothing is left."""
        wish = ClaimWish(round=round_name, item=item)
        return (await self.call("POST", f"{_ROOT}/claims", body=wish, reply=Claimed)).claim

    async def claims(self) -> tuple[Claim, ...]:
        """The person's claims in force."""
        return (await self.call("GET", f"{_ROOT}/claims", reply=Claims)).claims

    async def renew(self, claim: str) -> Lease:
        """Renews the lease from now on."""
        return await self.call("POST", f"{_ROOT}/claims/{claim}/renew", reply=Lease)

    async def release(self, claim: str) -> None:
        """Gives the item back."""
        await self.call("POST", f"{_ROOT}/claims/{claim}/release")

    async def skip(self, claim: str, reason: str) -> None:
        """Leaves the item to other people."""
        body = WithReason(reason=reason)
        await self.call("POST", f"{_ROOT}/claims/{claim}/skip", body=body)

    async def flag(self, claim: str, reason: str) -> None:
        """Reports a fault in the item itself."""
        body = WithReason(reason=reason)
        await self.call("POST", f"{_ROOT}/claims/{claim}/flag", body=body)

    async def submit(self, claim: str, submission: Submission) -> Submitted:
        """Hands a version in."""
        return await self.call(
            "POST", f"{_ROOT}/claims/{claim}/submit", body=submission, reply=Submitted
        )

    async def item(self, item: str) -> ItemView:
        """One item."""
        return await self.call("GET", f"{_ROOT}/items/{item}", reply=ItemView)

    async def items(
        self,
        *,
        round_name: str | None = None,
        state: ItemState | None = None,
        mine: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> ItemPage:
        """Items, a page at a time."""
        params: dict[str, str | int] = {"after": after, "limit": limit, "mine": str(mine).lower()}
        if round_name is not None:
            params["round"] = round_name
        if state is not None:
            params["state"] = state
        return await self.call("GET", f"{_ROOT}/items", params=params, reply=ItemPage)

    async def experts(self, item: str, start: int = 0, stop: int = 2000) -> ExpertsView:
        """The response token by token, with each expert's distribution."""
        params = {"start": start, "stop": stop}
        return await self.call(
            "GET", f"{_ROOT}/items/{item}/experts", params=params, reply=ExpertsView
        )

    async def save_draft(
        self, item: str, *, text: str | None, comment: str | None = None, revision: int
    ) -> Draft:
        """Saves unfinished work."""
        save = DraftSave(text=text, comment=comment, revision=revision)
        return await self.call("PUT", f"{_ROOT}/items/{item}/draft", body=save, reply=Draft)

    async def drop_draft(self, item: str) -> None:
        """Deletes the draft."""
        await self.call("DELETE", f"{_ROOT}/items/{item}/draft")

    async def review(
        self,
        item: str,
        verdict: Literal["approve", "reopen", "discard"],
        *,
        version: str | None = None,
        submission: Submission | None = None,
        comment: str | None = None,
    ) -> ItemView:
        """Records a review of the item; reviewers only."""
        decide = Decide(verdict=verdict, version=version, submission=submission, comment=comment)
        return await self.call("POST", f"{_ROOT}/items/{item}/review", body=decide, reply=ItemView)

    async def agreement(self, round_name: str) -> Agreement:
        """Agreement of a round's people; reviewers only."""
        return await self.call("GET", f"{_ROOT}/rounds/{round_name}/agreement", reply=Agreement)


class CorrectionsClient(HttpClient):
    """Calls of trainers, tools and admins, with a key of the deployment or an admin's own."""

    # ------------------------------------------------------------ people

    async def people(self) -> tuple[Person, ...]:
        """Every person of the queue."""
        return (await self.call("GET", f"{_ROOT}/people", reply=PersonList)).people

    async def add_person(self, name: str, role: Role = "annotator") -> IssuedKey:
        """Adds a person; their key is shown only once."""
        new = NewPerson(name=name, role=role)
        return await self.call("POST", f"{_ROOT}/people", body=new, reply=IssuedKey)

    async def new_key(self, name: str) -> IssuedKey:
        """Issues a new key; the old one becomes invalid."""
        return await self.call("POST", f"{_ROOT}/people/{name}/key", reply=IssuedKey)

    async def revoke_key(self, name: str) -> Person:
        """Revokes the person's key; the versions that they handed in stay."""
        return await self.call("DELETE", f"{_ROOT}/people/{name}/key", reply=Person)

    async def retire(self, name: str, reason: str) -> Retirement:
        """Retires a person's corrections."""
        body = Retire(reason=reason)
        return await self.call("POST", f"{_ROOT}/people/{name}/retire", body=body, reply=Retirement)

    # ------------------------------------------------------------ items and results

    async def rounds(self) -> tuple[Round, ...]:
        """Every round, newest first."""
        return (await self.call("GET", f"{_ROOT}/rounds", reply=Rounds)).rounds

    async def put_round(self, name: str, settings: RoundSettings, *, keep: bool = False) -> Round:
        """Creates a round, or changes its rules; with `keep`, an existing round keeps its rules."""
        params = {"keep": str(keep).lower()}
        path = f"{_ROOT}/rounds/{name}"
        return await self.call("PUT", path, params=params, body=settings, reply=Round)

    async def agreement(self, round_name: str) -> Agreement:
        """Agreement of a round's people."""
        return await self.call("GET", f"{_ROOT}/rounds/{round_name}/agreement", reply=Agreement)

    async def add_items(self, round_name: str, items: Sequence[NewItem]) -> tuple[TakenItem, ...]:
        """Adds items until the round's budget is spent; many or long ones in several calls."""
        taken: list[TakenItem] = []
        for part in fitting(items):
            new = NewItems(round=round_name, items=tuple(part))
            taken += (await self.call("POST", f"{_ROOT}/items", body=new, reply=TakenItems)).items
        return tuple(taken)

    async def add_rollouts(
        self, round_name: str, rollout_ids: Sequence[str], priority: float = 0.0
    ) -> tuple[TakenItem, ...]:
        """Adds recorded rollouts, chosen by hand."""
        chosen = ByHand(round=round_name, rollout_ids=tuple(rollout_ids), priority=priority)
        return (await self.call("POST", f"{_ROOT}/rollouts", body=chosen, reply=TakenItems)).items

    async def results(
        self,
        after: int = 0,
        *,
        run: str | None = None,
        round_name: str | None = None,
        limit: int = 200,
    ) -> Results:
        """Changes of authoritative versions since a cursor."""
        params: dict[str, str | int] = {"after": after, "limit": limit}
        if run is not None:
            params["run"] = run
        if round_name is not None:
            params["round"] = round_name
        return await self.call("GET", f"{_ROOT}/results", params=params, reply=Results)

    async def export(self, round_name: str | None = None) -> AsyncIterator[ExportLine]:
        """Every item with its whole history, in the order in which they came."""
        after: int | None = 0
        while after is not None:
            params: dict[str, str | int] = {"after": after}
            if round_name is not None:
                params["round"] = round_name
            page = await self.call("GET", f"{_ROOT}/export", params=params, reply=ExportPage)
            for line in page.lines:
                yield line
            after = page.after

    async def import_lines(self, round_name: str, lines: Sequence[ExportLine]) -> Imported:
        """Imports the export of another queue."""
        items = versions = 0
        for part in fitting(lines):
            body = ImportLines(round=round_name, lines=tuple(part))
            taken = await self.call("POST", f"{_ROOT}/import", body=body, reply=Imported)
            items, versions = items + taken.items, versions + taken.versions
        return Imported(items=items, versions=versions)

    # ------------------------------------------------------------ the people's expert

    async def ask(self, questions: Sequence[Asked]) -> None:
        """Records questions that people must answer."""
        await self.call("POST", f"{_ROOT}/questions", body=Questions(questions=tuple(questions)))

    async def due(self, limit: int = 50) -> tuple[Due, ...]:
        """Answers that can be given now."""
        params = {"limit": limit}
        return (await self.call("GET", f"{_ROOT}/due", params=params, reply=DueAnswers)).due

    async def lookup(self, prompt: Prompt, text: str) -> tuple[Due, ...]:
        """Authoritative corrections with this prompt and text."""
        asked = Lookup(prompt=prompt, text=text)
        return (await self.call("POST", f"{_ROOT}/lookup", body=asked, reply=DueAnswers)).due

    async def given(self, answers: Mapping[str, str | None]) -> None:
        """Records answers that were given, with the versions they were made from."""
        await self.call("POST", f"{_ROOT}/given", body=Given(answers=dict(answers)))

    async def put_vocabulary(self, fingerprint: str, pieces: Sequence[str]) -> None:
        """Stores the spelling of a vocabulary's ids."""
        body = Vocabulary(pieces=tuple(pieces))
        await self.call(
            "PUT", f"{_ROOT}/vocabularies/{fingerprint}", body=body, media_type=wire.JSON
        )
