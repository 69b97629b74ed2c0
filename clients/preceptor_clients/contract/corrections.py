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
from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from preceptor_clients.contract.arrays import Ints1
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
    role: Role = "annotator"


class Person(Answer):
    """One person; without their key, of which only a hash is stored."""

    name: Name
    role: Role
    created_at: float
    revoked_at: float | None = None
    """Their key is invalid since then."""
    retired_at: float | None = None
    """Their corrections are retired since then."""


class IssuedKey(Answer):
    """A person with their key, which is shown only once."""

    person: Person
    key: str


class PersonList(Answer):
    """`GET /v1/corrections/people`."""

    people: tuple[Person, ...]


class Progress(Answer):
    """One person's own figures, counted from the rows."""

    submitted: int
    """Items on which a version of theirs stands."""
    edited: int
    accepted: int
    commented: int
    skipped: int
    flagged: int
    claimed: int
    """Items that they hold now."""
    available: int
    """Items that they could claim now."""
    to_review: int
    """Items that wait for a reviewer."""


class Me(Answer):
    """`GET /v1/corrections/me`."""

    person: Person
    progress: Progress
    settings: dict[str, JsonValue]
    """Settings of the person's page, such as changed keys."""
    now: float


class PageSettings(Request):
    """`PUT /v1/corrections/me/settings`: replaces them all."""

    settings: dict[str, JsonValue]


# ---------------------------------------------------------------- rounds


class EditRules(Request):
    """How a corrected text is joined with the response that it corrects.

    The round holds them, and the results of its items carry them: trainer and people's expert
    compile an edit by the same rules.
    """

    rejoin_tokens: Annotated[int, Field(ge=1)] = 3
    """Number of equal tokens in a row after which the two texts count as joined again."""


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
    open: int
    """Items that need work, those under claim included."""
    claimed: int
    """Claims in force."""
    review: int
    done: int
    ended: int


class Round(Answer):
    """One round."""

    name: Name
    settings: RoundSettings
    created_at: float
    counts: RoundCounts


class Rounds(Answer):
    """`GET /v1/corrections/rounds`, newest first."""

    rounds: tuple[Round, ...]


class Agreement(Answer):
    """`GET /v1/corrections/rounds/{round}/agreement`: over items that two people worked on."""

    pairs: int
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
    response_text: Text
    response_ids: Ints1 | None = None
    """The response as ids; without them it gives only texts, no targets."""
    finish_reason: Literal["stop", "length"] = "stop"
    vocab_fingerprint: VocabFingerprint | None = None
    feedback: tuple[FeedbackItem, ...] = ()
    """Feedback on the attempt so far; people see it beside the response."""
    judged_by_nobody: Flag = False
    """Whether no source was asked about it; if false, empty `feedback` means unknown."""
    rollout_id: Key | None = None
    problem_id: Key | None = None
    run: Name | None = None
    step: Step | None = None
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
    items: tuple[NewItem, ...]


class ByHand(Request):
    """`POST /v1/corrections/rollouts`: recorded rollouts of runs, chosen by hand."""

    round: Name
    rollout_ids: tuple[Key, ...]
    priority: float = 0.0


class TakenItem(Answer):
    """The outcome of one item that was sent."""

    id: Key | None = None
    """None where the budget was spent."""
    state: Literal["new", "known", "over_budget"]


class TakenItems(Answer):
    """One per item sent, in order."""

    items: tuple[TakenItem, ...]


# ---------------------------------------------------------------- items out


class Version(Answer):
    """One person's version of an item; never changed."""

    id: Key
    item: Key
    person: Name
    decision: Decision
    text: str | None = None
    """The whole corrected response; None for accept and comment."""
    comment: str | None = None
    created_at: float
    authoritative: bool = False
    retired: bool = False


class Review(Answer):
    """One decision of a reviewer; never changed."""

    id: Key
    reviewer: Name
    verdict: Literal["approve", "reopen", "discard"]
    version: Key | None = None
    comment: str | None = None
    created_at: float


class ClaimEvent(Answer):
    """One claim in an item's history."""

    id: Key
    person: Name
    state: ClaimState
    claimed_at: float
    ended_at: float | None = None
    reason: str | None = None


class Draft(Answer):
    """A person's unfinished work on an item, kept on the server."""

    text: str | None = None
    comment: str | None = None
    revision: Step = 0
    """Counts saves; a save that names an older revision is refused."""
    saved_at: float | None = None


class ItemSummary(Answer):
    """One line of a list."""

    id: Key
    round: Name
    state: ItemState
    reason: str
    priority: float
    run: str | None = None
    rollout_id: str | None = None
    problem_id: str | None = None
    step: int | None = None
    created_at: float
    updated_at: float
    wanted: int
    """Number of people to work on it. Annotators always see 1: they must not know it."""
    submitted: int
    """Versions that stand; to an annotator, their own."""
    excerpt: str
    """The beginning of the response."""


class ItemPage(Answer):
    """`GET /v1/corrections/items`."""

    items: tuple[ItemSummary, ...]
    after: int | None = None
    """Cursor for the next request; None at the end."""


class ItemView(Answer):
    """One item, as far as the requesting person may see it."""

    summary: ItemSummary
    messages: tuple[Message, ...]
    response_text: str
    finish_reason: Literal["stop", "length"]
    feedback: tuple[FeedbackItem, ...]
    judged: Judged = "unknown"
    """Meaning of an empty `feedback`."""
    guidelines: str
    details: dict[str, JsonValue]
    versions: tuple[Version, ...]
    """All of them for reviewers; an annotator sees their own, and the authoritative one once the
    item is done."""
    reviews: tuple[Review, ...] = ()
    history: tuple[ClaimEvent, ...] = ()
    """Only for reviewers."""
    draft: Draft
    has_tokens: bool
    """Whether `/experts` can show it token by token."""


class TokenEntry(Answer):
    """One entry of an expert's distribution at a token."""

    text: str
    prob: float


class ExpertOpinion(Answer):
    """One expert's distribution at a token, best first."""

    expert: str
    entries: tuple[TokenEntry, ...]
    own_prob: float | None = None
    """Probability of the student's own token, where it is known."""


class TokenView(Answer):
    """One token of the response."""

    start: int
    """Its place in `response_text`, in characters."""
    end: int
    text: str
    student_prob: float | None = None
    disagreement: float | None = None
    """0 to 1: how far the experts' distributions differ from the student's token."""
    opinions: tuple[ExpertOpinion, ...] = ()


class ExpertsView(Answer):
    """`GET /v1/corrections/items/{item}/experts?start=&stop=`: tokens of the response."""

    total: int
    start: int
    tokens: tuple[TokenView, ...]


# ---------------------------------------------------------------- work


class ClaimWish(Request):
    """`POST /v1/corrections/claims`: the next item, of one round where it is named."""

    round: Name | None = None
    item: Key | None = None
    """The id of a wanted item; refused where it cannot be claimed."""


class Claim(Answer):
    """A lease on one item."""

    id: Key
    state: ClaimState
    lease_until: float
    lease_s: float
    """Its full length; renew at about a third."""
    now: float
    item: ItemView


class Claimed(Answer):
    """The claim, or None where no item is left."""

    claim: Claim | None = None


class Claims(Answer):
    """`GET /v1/corrections/claims`: what the person holds now, for a page that was reloaded."""

    claims: tuple[Claim, ...]


class Lease(Answer):
    """Reply to a renewal."""

    id: Key
    state: ClaimState
    lease_until: float
    now: float


class WithReason(Request):
    """Body of skip and flag."""

    reason: Reason


class Submission(Request):
    """`POST /v1/corrections/claims/{claim}/submit`.

    The same submission a second time changes nothing; another one is a new version, as long as the
    item is not settled.
    """

    decision: Decision
    text: Text | None = None
    comment: Remark | None = None

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
    item_state: ItemState


class DraftSave(Request):
    """`PUT /v1/corrections/items/{item}/draft`."""

    text: Text | None = None
    comment: Remark | None = None
    revision: Annotated[int, Field(ge=0)]
    """The revision that this save was made from; 409 if another window has saved since."""


class Decide(Request):
    """`POST /v1/corrections/items/{item}/review`, for reviewers.

    `approve` makes one version authoritative: `version`, or a new one of the reviewer's own in
    `submission`. `reopen` sends the item back to the queue. `discard` ends it without a version.
    A later decision replaces an earlier one; both stay in the history.
    """

    verdict: Literal["approve", "reopen", "discard"]
    version: Key | None = None
    submission: Submission | None = None
    comment: Remark | None = None

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
    kind: Literal["settled", "revised", "retired"]
    """`revised`: another version has become authoritative. `retired`: it no longer counts."""
    item: Key
    round: Name
    version: Key | None = None
    """None where the item ended without one."""
    decision: Decision | None = None
    text: str | None = None
    comment: str | None = None
    person: str | None = None
    reviewer: str | None = None
    run: str | None = None
    rollout_id: str | None = None
    problem_id: str | None = None
    step: int | None = None
    prompt: Prompt
    response_ids: tuple[int, ...] | None = None
    """The student's response."""
    response_text: str
    details: dict[str, JsonValue] = Field(default_factory=dict)
    edits: EditRules = EditRules()
    """The round's."""


class Results(Answer):
    """`GET /v1/corrections/results?after=CURSOR&limit=&run=&round=`, oldest first."""

    cursor: int
    """Cursor for the next request; it is part of a checkpoint."""
    results: tuple[Result, ...]


class ExportLine(Answer):
    """One item with its whole history: a line of the JSONL that is exported and imported."""

    id: Key
    item: NewItem
    round: Name
    state: ItemState
    created_at: float
    versions: tuple[Version, ...] = ()
    reviews: tuple[Review, ...] = ()


class ExportPage(Answer):
    """`GET /v1/corrections/export?round=&after=&limit=`."""

    lines: tuple[ExportLine, ...]
    after: int | None = None


class ImportLines(Request):
    """`POST /v1/corrections/import`, for admins: adds missing items and versions.

    Unknown people are added without a key.
    """

    round: Name
    lines: tuple[ExportLine, ...]


class Imported(Answer):
    """Numbers of new items and versions."""

    items: int
    versions: int


class Retire(Request):
    """`POST /v1/corrections/people/{person}/retire`, for admins."""

    reason: Reason


class RetiredTarget(Answer):
    """One target that was made with a retired correction."""

    target_id: Key
    rollout_id: Key
    run: Name
    answer_ids: tuple[Key, ...]
    """The retired answers of the target."""
    consumed_by: tuple[str, ...]
    """Steps that trained on it, as `lineage/step`; those of another run as `run/lineage/step`."""
    rebuilt_as: Key | None = None
    """The target without them; None where no component is left."""


class Retirement(Answer):
    """The targets and runs that used a person's corrections."""

    person: Name
    versions: tuple[Key, ...]
    reopened: int
    """Items that went back to the queue or to a reviewer."""
    targets: tuple[RetiredTarget, ...]
    runs: tuple[Name, ...]
    """Runs that trained on any of the targets."""


# ---------------------------------------------------------------- the people's expert


class Asked(Request):
    """One question that the people's expert was asked."""

    answer_key: Sha256
    item: NewItem


class Questions(Request):
    """`POST /v1/corrections/questions`, with an expert's key: people must answer these.

    A question about a response that is not an item yet creates one, in the round named after the
    run that asks.
    """

    questions: tuple[Asked, ...]


class Due(Answer):
    """An answer that can be given now."""

    answer_key: Sha256
    item: Key
    version: Key | None = None
    decision: Decision | None = None
    """None: the item ended, or its correction was retired; there is no opinion."""
    text: str | None = None
    prompt: Prompt
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


class Given(Request):
    """`POST /v1/corrections/given`: answers that were given, with their versions."""

    answers: dict[Sha256, Key | None]


class Lookup(Request):
    """`POST /v1/corrections/lookup`: authoritative corrections with this text, by prompt."""

    prompt: Prompt
    text: Text


class Vocabulary(Request):
    """`PUT /v1/corrections/vocabularies/{fingerprint}`: how ids are spelled, for the pages."""

    pieces: tuple[str, ...]
    """By id; each piece's bytes, one character (0 to 255) per byte."""
