"""Messages of human corrections: the queue, the people's work on it, and the results.

A **round** is a queue with guidelines, a budget and rules. An **item** is one response that people
are asked about; a **claim** is one person's lease on it; a **version** is what one person handed
in, and is never changed; a **review** marks one version as authoritative. Routes and flow are
described in `docs/how-to/corrections.md`.

Times are seconds since the epoch in the gateway's clock; a page computes the rest of a lease
from `now`, not from its own clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from preceptor_clients.contract.arrays import Ints1
from preceptor_clients.contract.errors import Conflict
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import (
    Answer,
    FeedbackItem,
    Flag,
    Key,
    Message,
    Name,
    Prompt,
    Request,
    Sha256,
    Step,
    VocabFingerprint,
)

MAX_TEXT: Final = 2_000_000
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Remark = Annotated[str, StringConstraints(max_length=20_000)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]

Role = Literal["annotator", "reviewer", "admin"]
"""An annotator works on items; a reviewer also decides; an admin also manages people and rounds."""
ItemState = Literal["open", "review", "done", "ended"]
"""`open`: needs work. `review`: a reviewer must decide. `done`: one version is authoritative.
`ended`: closed without one."""
ClaimState = Literal[
    "active", "submitted", "released", "skipped", "flagged", "expired", "returned", "withdrawn"
]
"""`returned`: a reviewer sent the item back; `withdrawn`: the item was settled without it."""
Decision = Literal["edit", "accept", "comment"]
ReviewRule = Literal["never", "disagreement", "always"]
Judged = Literal["judged", "nobody", "unknown"]
"""`judged`: feedback stands beside the response. `nobody`: no source was asked about it.
`unknown`: the sender did not state it, or a source was asked and gave nothing."""


# ---------------------------------------------------------------- people


class NewPerson(Request):
    """`POST /v1/corrections/people`, for admins."""

    name: Name
    """Their name, which identifies them."""
    role: Role = "annotator"
    """What they may do."""


class Person(Answer):
    """One person; without their key, of which only a hash is stored."""

    name: Name
    """Their name, which identifies them."""
    role: Role
    """What they may do."""
    created_at: float
    """When they were added."""
    revoked_at: float | None = None
    """Their key is invalid since then."""
    retired_at: float | None = None
    """Their corrections are retired since then."""


class IssuedKey(Answer):
    """A person with their key, which is shown only once."""

    person: Person
    """The person."""
    key: str
    """The key with which they sign in."""


class PersonList(Answer):
    """`GET /v1/corrections/people`."""

    people: tuple[Person, ...]
    """Everybody, in the order of names."""


class Progress(Answer):
    """One person's own figures, counted from the rows."""

    submitted: int
    """Items on which a version of theirs stands."""
    edited: int
    """Of these, versions with a changed text."""
    accepted: int
    """Of these, responses accepted as they are."""
    commented: int
    """Of these, comments alone."""
    skipped: int
    """Items that they skipped."""
    flagged: int
    """Items that they flagged."""
    claimed: int
    """Items that they hold now."""
    available: int
    """Items that they could claim now."""
    to_review: int
    """Items that wait for a reviewer."""


class Me(Answer):
    """`GET /v1/corrections/me`."""

    person: Person
    """The person whose key was sent."""
    progress: Progress
    """Their figures."""
    settings: dict[str, JsonValue]
    """Settings of the person's page, such as changed keys."""
    now: float
    """The gateway's time."""


class PageSettings(Request):
    """`PUT /v1/corrections/me/settings`: replaces them all."""

    settings: dict[str, JsonValue]
    """Settings by name."""


# ---------------------------------------------------------------- rounds


class EditRules(Request):
    """How a corrected text is joined with the response that it corrects.

    The round holds them, and the results of its items carry them: trainer and people's expert
    compile an edit by the same rules.
    """

    rejoin_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] = 3
    """Number of equal tokens in a row after which the two texts count as joined again."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.model_dump().items())


class RoundSettings(Request):
    """`PUT /v1/corrections/rounds/{round}`: a queue and its rules."""

    guidelines: Text = ""
    """Markdown, shown beside each item."""
    budget: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    """Most items that the round takes in; no bound where absent."""
    double_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of items that two people work on, neither seeing the other's version."""
    lease_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    """How long a claim lasts unless it is renewed."""
    review: ReviewRule = "disagreement"
    """Which items a reviewer must decide: none, doubles that differ, or all."""
    max_skips: Annotated[int, Field(ge=1, lt=1 << 31)] = 3
    """After so many people have skipped it, an item goes to a reviewer."""
    closed: Flag = False
    """Gives out no more claims; claimed items can still be handed in."""
    edits: EditRules = EditRules()
    """Rules for compiling edits; fixed from the first item on."""


class RoundCounts(Answer):
    """Counted from the rows at this moment."""

    total: int
    """All items of the round."""
    open: int
    """Items that need work, those under claim included."""
    claimed: int
    """Claims in force."""
    review: int
    """Items that wait for a reviewer."""
    done: int
    """Items with an authoritative version."""
    ended: int
    """Items that ended without one."""


class Round(Answer):
    """One round."""

    name: Name
    """Its name."""
    settings: RoundSettings
    """Its rules."""
    created_at: float
    """When it was made."""
    counts: RoundCounts
    """Its items, counted."""


class Rounds(Answer):
    """`GET /v1/corrections/rounds`, newest first."""

    rounds: tuple[Round, ...]
    """Every round."""


class Agreement(Answer):
    """`GET /v1/corrections/rounds/{round}/agreement`: over items that two people worked on."""

    pairs: int
    """Number of compared pairs of versions."""
    same_decision: float | None = None
    """Share of pairs with the same decision (edit, accept, comment)."""
    kappa: float | None = None
    """The same, corrected for chance (Scott's pi: one distribution for all people)."""
    same_text: float | None = None
    """Share of pairs whose final texts are equal."""
    same_departure: float | None = None
    """Of pairs of edits, the share that first depart from the response at the same character."""
    similarity: float | None = None
    """Mean similarity of final texts, 0 to 1."""
    upheld: dict[str, float] = Field(default_factory=dict)
    """Per person, the share of their reviewed versions that a reviewer made authoritative."""


# ---------------------------------------------------------------- items in


class NewItem(Request):
    """One response to be corrected, from a run or from outside any run."""

    prompt: Prompt
    """What the student was asked."""
    response_text: Text
    """What it answered."""
    response_ids: Ints1 | None = None
    """The response as ids; without them it gives only texts, no targets."""
    finish_reason: Literal["stop", "length"] = "stop"
    """`stop` at an end token, `length` where the response was cut."""
    vocab_fingerprint: VocabFingerprint | None = None
    """The vocabulary of `response_ids`; required beside them."""
    feedback: tuple[FeedbackItem, ...] = ()
    """Feedback on the attempt so far; people see it beside the response."""
    judged_by_nobody: Flag = False
    """Whether no source was asked about it; if false, empty `feedback` means unknown."""
    rollout_id: Key | None = None
    """The rollout, for a response from a run."""
    problem_id: Key | None = None
    """The problem that was attempted."""
    run: Name | None = None
    """The run that it comes from."""
    step: Step | None = None
    """Index of the step that drew it; the first is 0."""
    reason: Annotated[str, StringConstraints(max_length=200)] = "by hand"
    """Name of the policy that chose it, or another reason."""
    priority: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    """Items of higher priority are given out first."""
    details: dict[str, JsonValue] = Field(default_factory=dict)
    """Free values of the sender's, repeated in the export."""

    @model_validator(mode="after")
    def _ids_name_their_vocabulary(self) -> Self:
        if self.response_ids is not None and self.vocab_fingerprint is None:
            raise ValueError("vocab_fingerprint: is missing beside response_ids")
        return self

    @model_validator(mode="after")
    def _feedback_has_a_judge(self) -> Self:
        if self.judged_by_nobody and self.feedback:
            raise ValueError("judged_by_nobody: is true, but there is feedback")
        return self

    def judged(self) -> Judged:
        """Whether it was judged, by nobody, or unknown."""
        if self.feedback:
            return "judged"
        return "nobody" if self.judged_by_nobody else "unknown"

    def prompt_sha256(self) -> str:
        """Equal prompts have equal hashes."""
        return prompt_sha256(self.prompt)

    def content_sha256(self) -> str:
        """Within a round, the same content is the same item."""
        return response_sha256(self.prompt, self.response_text, self.response_ids)


def prompt_sha256(prompt: Prompt) -> str:
    """Equal prompts have equal hashes; the messages decide where there are any."""
    if prompt.messages:
        return content_hash({"messages": [[m.role, m.content] for m in prompt.messages]})
    return content_hash({"ids": prompt.ids})


def response_sha256(prompt: Prompt, text: str, ids: Ints1 | None) -> str:
    """Identity of one response to one prompt: its ids where they are known, else its text."""
    response = {"text": text} if ids is None else {"ids": [int(i) for i in ids]}
    return content_hash({"prompt": prompt_sha256(prompt), "response": response})


def text_sha256(text: str) -> str:
    """SHA-256 of a text, half surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class NewItems(Request):
    """`POST /v1/corrections/items`: taken in order until the round's budget is spent.

    A round that does not exist yet is made with the default settings.
    """

    round: Name
    """Name of the round."""
    items: tuple[NewItem, ...]
    """The responses, in the order in which the budget takes them."""


class ByHand(Request):
    """`POST /v1/corrections/rollouts`: recorded rollouts of runs, chosen by hand."""

    round: Name
    """Name of the round; a new one gets the default settings."""
    rollout_ids: tuple[Key, ...]
    """Ids of recorded rollouts."""
    priority: float = 0.0
    """Items of higher priority are given out first."""


class TakenItem(Answer):
    """The outcome of one item that was sent."""

    id: Key | None = None
    """None where the budget was spent."""
    state: Literal["new", "known", "over_budget"]
    """`new`: taken. `known`: the round has this response already. `over_budget`: not taken."""


class TakenItems(Answer):
    """One per item sent, in order."""

    items: tuple[TakenItem, ...]
    """As many as were sent, in their order."""


# ---------------------------------------------------------------- items out


class Version(Answer):
    """One person's version of an item; never changed."""

    id: Key
    """Its id."""
    item: Key
    """The item."""
    person: Name
    """Who handed it in."""
    decision: Decision
    """Whether the response was edited, accepted, or only commented on."""
    text: str | None = None
    """The whole corrected response; None for accept and comment."""
    comment: str | None = None
    """A remark for reviewers and readers of the export."""
    created_at: float
    """When it was handed in."""
    authoritative: bool = False
    """Whether it is the item's result."""
    retired: bool = False
    """Whether it was retired with its person's corrections; it then counts no longer."""


class Review(Answer):
    """One decision of a reviewer; never changed."""

    id: Key
    """Its id."""
    reviewer: Name
    """Who decided."""
    verdict: Literal["approve", "reopen", "discard"]
    """`approve` makes a version authoritative, `reopen` sends the item back, `discard` ends it."""
    version: Key | None = None
    """The approved version; None for the other verdicts."""
    comment: str | None = None
    """A remark to the people who worked on it."""
    created_at: float
    """When it was decided."""


class ClaimEvent(Answer):
    """One claim in an item's history."""

    id: Key
    """Id of the claim."""
    person: Name
    """Who held it."""
    state: ClaimState
    """What became of it."""
    claimed_at: float
    """When it began."""
    ended_at: float | None = None
    """When it ended; None while it is held."""
    reason: str | None = None
    """The person's reason for a skip or a flag."""


class Draft(Answer):
    """A person's unfinished work on an item, kept on the server."""

    text: str | None = None
    """The text so far."""
    comment: str | None = None
    """The comment so far."""
    revision: Step = 0
    """Counts saves; a save that names an older revision is refused."""
    saved_at: float | None = None
    """When it was saved; None where there is none."""


class ItemSummary(Answer):
    """One line of a list."""

    id: Key
    """Id of the item."""
    round: Name
    """Its round."""
    state: ItemState
    """Whether it needs work, a reviewer, or nothing more."""
    reason: str
    """Name of the policy that chose it, or another reason."""
    priority: float
    """Items of higher priority are given out first."""
    run: str | None = None
    """The run that it comes from."""
    rollout_id: str | None = None
    """The rollout, for a response from a run."""
    problem_id: str | None = None
    """The problem that was attempted."""
    step: int | None = None
    """Index of the step that drew it; the first is 0."""
    created_at: float
    """When it was added."""
    updated_at: float
    """When anything about it last changed."""
    wanted: int
    """Number of people to work on it. Annotators always see 1: they must not know it."""
    submitted: int
    """Versions that stand; to an annotator, their own."""
    excerpt: str
    """The beginning of the response."""


class ItemPage(Answer):
    """`GET /v1/corrections/items`."""

    items: tuple[ItemSummary, ...]
    """One page of them."""
    after: int | None = None
    """Cursor for the next request; None at the end."""


class ItemView(Answer):
    """One item, as far as the requesting person may see it."""

    summary: ItemSummary
    """Its line in a list."""
    messages: tuple[Message, ...]
    """The conversation that the response continues."""
    response_text: str
    """The response that is to be corrected."""
    finish_reason: Literal["stop", "length"]
    """`stop` at an end token, `length` where the response was cut."""
    feedback: tuple[FeedbackItem, ...]
    """What feedback sources said about the response."""
    judged: Judged = "unknown"
    """Meaning of an empty `feedback`."""
    guidelines: str
    """The round's guidelines, in Markdown."""
    details: dict[str, JsonValue]
    """Free values of the sender's."""
    versions: tuple[Version, ...]
    """All of them for reviewers; an annotator sees their own, and the authoritative one once the
    item is done."""
    reviews: tuple[Review, ...] = ()
    """Decisions of reviewers, oldest first."""
    history: tuple[ClaimEvent, ...] = ()
    """Only for reviewers."""
    draft: Draft
    """The requesting person's own draft."""
    has_tokens: bool
    """Whether `/experts` can show it token by token."""


class TokenEntry(Answer):
    """One entry of an expert's distribution at a token."""

    text: str
    """The token as text."""
    prob: float
    """Its probability."""


class ExpertOpinion(Answer):
    """One expert's distribution at a token, best first."""

    expert: str
    """Name of the expert."""
    entries: tuple[TokenEntry, ...]
    """Its most probable tokens."""
    own_prob: float | None = None
    """Probability of the student's own token, where it is known."""


class TokenView(Answer):
    """One token of the response."""

    start: int
    """Its place in `response_text`, in characters."""
    end: int
    """The end of that place."""
    text: str
    """The token as text."""
    student_prob: float | None = None
    """The student's probability of it, where it is known."""
    disagreement: float | None = None
    """0 to 1: how far the experts' distributions differ from the student's token."""
    opinions: tuple[ExpertOpinion, ...] = ()
    """What each expert would have written here."""


class ExpertsView(Answer):
    """`GET /v1/corrections/items/{item}/experts?start=&stop=`: tokens of the response."""

    total: int
    """Number of tokens of the whole response."""
    start: int
    """Position of the first token below, from 0."""
    tokens: tuple[TokenView, ...]
    """The tokens from there on."""


# ---------------------------------------------------------------- work


class ClaimWish(Request):
    """`POST /v1/corrections/claims`: the next item, of one round where it is named."""

    round: Name | None = None
    """Name of a round; any round where it is absent."""
    item: Key | None = None
    """The id of a wanted item; refused where it cannot be claimed."""


class Claim(Answer):
    """A lease on one item."""

    id: Key
    """Id of the claim."""
    state: ClaimState
    """`active` while it is held."""
    lease_until: float
    """When the lease ends, in the gateway's time."""
    lease_s: float
    """Its full length; renew at about a third."""
    now: float
    """The gateway's time."""
    item: ItemView
    """The item."""


class Claimed(Answer):
    """The claim, or None where no item is left."""

    claim: Claim | None = None
    """The new claim."""


class Claims(Answer):
    """`GET /v1/corrections/claims`: what the person holds now, for a page that was reloaded."""

    claims: tuple[Claim, ...]
    """The claims, newest first."""


class Lease(Answer):
    """Reply to a renewal."""

    id: Key
    """Id of the claim."""
    state: ClaimState
    """`active`."""
    lease_until: float
    """When the lease now ends, in the gateway's time."""
    now: float
    """The gateway's time."""


class WithReason(Request):
    """Body of skip and flag."""

    reason: Reason
    """Why, in the person's words."""


class Submission(Request):
    """`POST /v1/corrections/claims/{claim}/submit`.

    The same submission a second time changes nothing; another one is a new version, as long as the
    item is not settled.
    """

    decision: Decision
    """Whether the response is edited, accepted, or only commented on."""
    text: Text | None = None
    """The whole corrected response; only of an edit."""
    comment: Remark | None = None
    """A remark; required where there is only a comment."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.decision == "edit" and self.text is None:
            raise ValueError("text: is missing from an edit")
        if self.decision != "edit" and self.text is not None:
            raise ValueError(f"text: does not belong to {self.decision!r}")
        if self.decision == "comment" and not (self.comment or "").strip():
            raise ValueError("comment: is empty")
        return self


class Submitted(Answer):
    """Reply to a submission."""

    version: Version
    """The version as it is kept."""
    item_state: ItemState
    """State of the item after it."""


class DraftSave(Request):
    """`PUT /v1/corrections/items/{item}/draft`."""

    text: Text | None = None
    """The text so far."""
    comment: Remark | None = None
    """The comment so far."""
    revision: Annotated[int, Field(ge=0)]
    """The revision that this save was made from; 409 if another window has saved since."""


class Decide(Request):
    """`POST /v1/corrections/items/{item}/review`, for reviewers.

    `approve` makes one version authoritative: `version`, or a new one of the reviewer's own in
    `submission`. `reopen` sends the item back to the queue. `discard` ends it without a version.
    A later decision replaces an earlier one; both stay in the history.
    """

    verdict: Literal["approve", "reopen", "discard"]
    """The decision."""
    version: Key | None = None
    """Id of the version to approve."""
    submission: Submission | None = None
    """The reviewer's own version, to approve in place of another."""
    comment: Remark | None = None
    """A remark to the people who worked on it."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named = (self.version is not None) + (self.submission is not None)
        if self.verdict == "approve" and named != 1:
            raise ValueError("version: approve needs either a version or a submission")
        if self.verdict != "approve" and named:
            raise ValueError(f"version: does not belong to {self.verdict!r}")
        return self


# ---------------------------------------------------------------- results


class Result(Answer):
    """The result of one item, as trainers and tools read it."""

    cursor: int
    """Its place in the sequence of results."""
    kind: Literal["settled", "revised", "retired"]
    """`revised`: another version has become authoritative. `retired`: it no longer counts."""
    item: Key
    """Id of the item."""
    round: Name
    """Its round."""
    version: Key | None = None
    """None where the item ended without one."""
    decision: Decision | None = None
    """The version's decision; None where there is no version."""
    text: str | None = None
    """The whole corrected response; only of an edit."""
    comment: str | None = None
    """The version's remark."""
    person: str | None = None
    """Who handed the version in."""
    reviewer: str | None = None
    """Who made it authoritative; None where no reviewer had to."""
    run: str | None = None
    """The run that the item comes from."""
    rollout_id: str | None = None
    """The rollout, for a response from a run."""
    problem_id: str | None = None
    """The problem that was attempted."""
    step: int | None = None
    """Index of the step that drew it; the first is 0."""
    prompt: Prompt
    """What the student was asked."""
    response_ids: tuple[int, ...] | None = None
    """The student's response."""
    response_text: str
    """The response as text."""
    details: dict[str, JsonValue] = Field(default_factory=dict)
    """Free values of the sender's."""
    edits: EditRules = EditRules()
    """The round's."""


class Results(Answer):
    """`GET /v1/corrections/results?after=CURSOR&limit=&run=&round=`, oldest first."""

    cursor: int
    """Cursor for the next request; it is part of a checkpoint."""
    results: tuple[Result, ...]
    """One page of them."""


class ExportLine(Answer):
    """One item with its whole history: a line of the JSONL that is exported and imported."""

    id: Key
    """Id of the item."""
    item: NewItem
    """The item as it was sent."""
    round: Name
    """Its round."""
    state: ItemState
    """Its state."""
    created_at: float
    """When it was added."""
    versions: tuple[Version, ...] = ()
    """Every version of it."""
    reviews: tuple[Review, ...] = ()
    """Every decision of a reviewer."""
    edits: EditRules | None = None
    """Rules of the item's round for compiling edits; None in exports of older versions."""


class ExportPage(Answer):
    """`GET /v1/corrections/export?round=&after=&limit=`."""

    lines: tuple[ExportLine, ...]
    """One page of them."""
    after: int | None = None
    """Cursor for the next request; None at the end."""


def carried_rules(lines: Sequence[ExportLine]) -> EditRules | None:
    """The rules for edits of an export; None for one of an older version.

    Raises:
        Conflict: the lines carry different rules.
    """
    carried = list(dict.fromkeys(line.edits for line in lines if line.edits is not None))
    if len(carried) > 1:
        raise Conflict(
            "the lines come from rounds whose edits are compiled by different rules "
            f"({'; '.join(map(str, carried))}); export and import these rounds one by one",
            field="lines",
        )
    return carried[0] if carried else None


class ImportLines(Request):
    """`POST /v1/corrections/import`, for admins: adds missing items and versions.

    Unknown people are added without a key.
    """

    round: Name
    """Name of the round that takes the items."""
    lines: tuple[ExportLine, ...]
    """Lines of an export."""


class Imported(Answer):
    """Numbers of new items and versions."""

    items: int
    """Number of items that were missing."""
    versions: int
    """Number of versions that were missing."""


class Retire(Request):
    """`POST /v1/corrections/people/{person}/retire`, for admins."""

    reason: Reason
    """Why; it is kept."""


class RetiredTarget(Answer):
    """One target that was made with a retired correction."""

    target_id: Key
    """Id of the target."""
    rollout_id: Key
    """The rollout that it is for."""
    run: Name
    """The run that it belongs to."""
    answer_ids: tuple[Key, ...]
    """The retired answers of the target."""
    consumed_by: tuple[str, ...]
    """Steps that trained on it, as `lineage/step`; those of another run as `run/lineage/step`."""
    rebuilt_as: Key | None = None
    """The target without them; None where no component is left."""


class Retirement(Answer):
    """The targets and runs that used a person's corrections."""

    person: Name
    """The person."""
    versions: tuple[Key, ...]
    """Ids of the versions that count no longer."""
    reopened: int
    """Items that went back to the queue or to a reviewer."""
    targets: tuple[RetiredTarget, ...]
    """Targets that were made with them."""
    runs: tuple[Name, ...]
    """Runs that trained on any of the targets."""


# ---------------------------------------------------------------- the people's expert


class Asked(Request):
    """One question that the people's expert was asked."""

    answer_key: Sha256
    """Key under which the answer is put."""
    item: NewItem
    """The response that the question is about."""


class Questions(Request):
    """`POST /v1/corrections/questions`, with an expert's key: people must answer these.

    A question about a response that is not an item yet creates one, in the round named after the
    run that asks.
    """

    questions: tuple[Asked, ...]
    """The questions."""


class Due(Answer):
    """An answer that can be given now."""

    answer_key: Sha256
    """Key under which the answer is put."""
    item: Key
    """Id of the item."""
    version: Key | None = None
    """The version that decides; None where there is none."""
    decision: Decision | None = None
    """None: the item ended, or its correction was retired; there is no opinion."""
    text: str | None = None
    """The whole corrected response; only of an edit."""
    prompt: Prompt
    """What the student was asked."""
    base_ids: tuple[int, ...]
    """The student's response that the person saw."""
    positions: tuple[tuple[int, int], ...] | None = None
    """The queried positions."""
    expert_version: str | None = None
    """The version of the expert that was asked: it labels by that version's rules."""
    edits: EditRules = EditRules()
    """The round's rules, by which the edit is compiled."""


class DueAnswers(Answer):
    """`GET /v1/corrections/due?limit=`, oldest question first."""

    due: tuple[Due, ...]
    """One page of them."""


class Given(Request):
    """`POST /v1/corrections/given`: answers that were given, with their versions."""

    answers: dict[Sha256, Key | None]
    """By answer key: the version that the answer was made from, None without one."""


class Lookup(Request):
    """`POST /v1/corrections/lookup`: authoritative corrections with this text, by prompt."""

    prompt: Prompt
    """The prompt."""
    text: Text
    """The text of the response."""


class Vocabulary(Request):
    """`PUT /v1/corrections/vocabularies/{fingerprint}`: how ids are spelled, for the pages."""

    pieces: tuple[str, ...]
    """By id; each piece's bytes, one character (0 to 255) per byte."""
