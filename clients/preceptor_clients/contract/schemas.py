"""The wire contract: every message between trainer, gateway, dispatcher, experts and sources.

**Index convention.** Entry t is the distribution over response token t given everything before t:
the prompt, the feedback in view and the response tokens before t. Only response positions travel.
Ids travel, not text.

Arrays end in their dimensions: `T` response positions, `P` positions asked (a subset of T, in
order), `K` entries per position, `C` candidates per position. A missing log-prob is masked: never
0.0, never dropped silently. Each message has two renderings: JSON (arrays are nested lists, missing
numbers null) and the frame (`frame.py`).

Requests refuse unknown fields. Answers ignore them, so that an older client works with a newer
service.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    Strict,
    StringConstraints,
    model_validator,
)

from preceptor_clients.contract.arrays import (
    ArrayTree,
    Bools1,
    Bools2,
    Floats1,
    Floats2,
    Ints1,
    Ints2,
)
from preceptor_clients.contract.errors import ProblemDetails

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
VocabFingerprint = Annotated[str, StringConstraints(pattern=r"^(v[1-9][0-9]{0,3}-)?[0-9a-f]{64}$")]
"""The version of the fingerprint rule and a SHA-256; version 1 is the SHA-256 alone."""
WeightVersion = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[0-9]{1,9}$"
    ),
]
"""`{policy}/{lineage}/{step}`."""
Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Flag = Annotated[bool, Strict()]
"""A bool. Values that could be converted to a bool are refused."""
Step = Annotated[int, Field(ge=0, lt=1 << 31)]
"""Counted from 0; at most the largest value of its database column."""
Seconds = Annotated[float, Field(ge=0)]
ServiceRole = Literal["expert", "source"]
"""The role of a service in a deployment; each role answers one kind of query."""


class Request(BaseModel):
    """What a caller sends: unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Answer(BaseModel):
    """What a service returns: unknown fields are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


# ---------------------------------------------------------------- prompts and feedback


class Message(Request):
    """One chat turn."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks."""
    content: str
    """The text, without markup."""


class Prompt(Request):
    """What the student was asked: chat messages and, where known, the exact ids it saw."""

    messages: tuple[Message, ...] = ()
    """The chat; empty where only the ids are known."""
    ids: Ints1 | None = None
    """The exact ids that the student saw, template and start token included."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.messages and (self.ids is None or not self.ids.size):
            raise ValueError("needs messages or ids")
        return self


FeedbackKind = Literal[
    "execution", "verdict", "judge", "demonstration", "reference", "correction", "comment"
]
RIGHT_ANSWER_KINDS: Final = frozenset[FeedbackKind]({"demonstration", "reference", "correction"})
"""Kinds of items whose text is an answer to the prompt."""
REMARK_KINDS: Final = frozenset[FeedbackKind]({"execution", "verdict", "judge", "comment"})
"""Kinds of items whose text is about the attempt."""


class FeedbackItem(Answer):
    """One piece of feedback about an attempt, from a person or a program.

    A failed judgement has `error`, never a score of 0.
    """

    id: Key
    """Unique among the items of its query."""
    kind: FeedbackKind
    """The kind of feedback; each expert decides how to render a kind."""
    score: float | None = None
    """The quality of the attempt, by convention from 0 to 1; null where it was not judged."""
    text: str | None = None
    """The text that experts read."""
    error: str | None = None
    """Why the judgement failed; such an item has no score."""
    expert_may_see: Flag = True
    """False: the item is shown to no expert."""
    source: Name
    """Name of the source."""
    version: str
    """Version of the source when it made the item."""
    details: dict[str, JsonValue] = Field(default_factory=dict)
    """Further facts from the source, such as the isolation that a program ran under."""
    cost: float | None = None
    """Price of this item, in the deployment's unit."""

    def content_hash(self) -> str:
        """SHA-256 of the part that experts see: kind and text, not the id."""
        return hashlib.sha256(f"{self.kind}\0{self.text}".encode()).hexdigest()


# ---------------------------------------------------------------- experts


class WantedWeights(Request):
    """Which version of a policy an expert must answer with. Experts without versions ignore it."""

    mode: Literal["exact", "at_least", "latest"]
    """`exact`: this version; `at_least`: it or a later one of its lineage; `latest`: the newest
    of `policy`."""
    version: WeightVersion | None = None
    """The version that `exact` and `at_least` name."""
    policy: Name | None = None
    """The policy that `latest` names."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mode == "latest":
            if self.policy is None or self.version is not None:
                raise ValueError("`latest` needs `policy` and no `version`")
        elif self.version is None or self.policy is not None:
            raise ValueError(f"`{self.mode}` needs `version` and no `policy`")
        return self


class PrefixQuery(Request):
    """Asks an expert for its next-token distributions at positions of the student's attempt."""

    prompt: Prompt
    """What the student was asked."""
    response_ids: Ints1
    """`[T]` the student's tokens, the end token included."""
    owned: Bools1 | None = None
    """`[T]` true for tokens that the student wrote; all where absent."""
    positions: tuple[tuple[int, int], ...] | None = None
    """Half-open ranges of response positions, ascending and disjoint; all where absent."""
    feedback: tuple[FeedbackItem, ...] = ()
    """The feedback in view, in order; the expert renders every item."""
    vocab_fingerprint: VocabFingerprint
    """The vocabulary of all ids of the query; an expert with another one refuses it with 409."""
    top_k: Annotated[int, Field(ge=1, le=1 << 24)] = 64
    """Number of entries requested at each position."""
    candidate_ids: Ints2 | None = None
    """`[P, C]` ids to score in addition to the expert's top-k; -1 is padding."""
    entropy_P: Floats1 | None = None
    """`[P]` the student's entropy in nats, for experts that can score only a few positions."""
    weights: WantedWeights | None = None
    """The weights that must compute the answer; absent for experts without versions."""
    group_id: Key | None = None
    """Queries of one group share their prompt and are sent as one batch."""
    draw: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """Number of the draw, for experts that sample."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """0 is first."""
    timeout_ms: Annotated[int, Field(ge=1, le=86_400_000)] = 60_000
    """How long the caller waits, from the submission on."""
    rollout_id: Key | None = None
    """The rollout that contains the response, for the records."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        num_tokens = len(self.response_ids)
        if num_tokens == 0:
            raise ValueError("response_ids: is empty")
        if self.response_ids.min() < 0:
            raise ValueError("response_ids: has a negative id")
        if self.prompt.ids is not None and self.prompt.ids.size and self.prompt.ids.min() < 0:
            raise ValueError("prompt.ids: has a negative id")
        if self.owned is not None and len(self.owned) != num_tokens:
            raise ValueError(f"owned: has {len(self.owned)} entries for {num_tokens} tokens")
        end = 0
        for start, stop in self.positions or ():
            if not end <= start < stop <= num_tokens:
                raise ValueError(
                    f"positions: [{start}, {stop}) is empty, unordered or out of range"
                )
            end = stop
        if self.positions == ():
            raise ValueError("positions: is empty")
        if self.candidate_ids is not None and len(self.candidate_ids) != self.num_positions:
            raise ValueError(
                f"candidate_ids: has {len(self.candidate_ids)} rows "
                f"for {self.num_positions} positions"
            )
        if self.entropy_P is not None and (
            len(self.entropy_P) != self.num_positions or self.entropy_P.min() < 0
        ):
            raise ValueError(f"entropy_P: expected {self.num_positions} finite values >= 0")
        return self

    @property
    def num_positions(self) -> int:
        """P."""
        if self.positions is None:
            return len(self.response_ids)
        return sum(stop - start for start, stop in self.positions)

    def position_ids(self) -> np.ndarray:
        """`[P]` the queried positions, as int64 indices into the response."""
        if self.positions is None:
            return np.arange(len(self.response_ids))
        return np.concatenate([np.arange(start, stop) for start, stop in self.positions])


AnswerKind = Literal["topk", "empirical", "point"]


class PrefixAnswer(Answer):
    """An expert's next-token distributions at the queried positions.

    Build it with `answers.build_answer`.
    """

    kind: AnswerKind
    """`topk`: the most probable ids; `empirical`: counts of samples; `point`: one id a position."""
    token_ids_P: Ints1
    """The student's token at each position, echoed, so that an answer shifted by one is refused."""
    mask_P: Bools1
    """False where the expert has no opinion; the other values of that row are then ignored."""
    num_entries_P: Ints1
    """How many of the K cells are filled: the first ones, in descending order of log-prob."""
    ids_PK: Ints2
    """-1 in empty cells."""
    logprobs_PK: Floats2
    """Normalised over the whole vocabulary at temperature 1; `MISSING` in empty cells."""
    tail_P: Floats1
    """Probability outside the entries: 1 minus the sum of their decoded probabilities."""
    own_logprobs_P: Floats1
    """Log-prob of the student's own token at each position, natural, at temperature 1."""
    own_mask_P: Bools1
    """False where the log-prob of the student's own token is not known."""
    candidate_logprobs_PC: Floats2 | None = None
    """Log-probs of the candidate ids of the query; absent where it had none."""
    candidate_mask_PC: Bools2 | None = None
    """False in padded cells and where a candidate is not known."""
    renormalised_P: Bools1 | None = None
    """True where rounding raised the sum of a row above 1 and the row was scaled back to 1."""
    num_draws: int | None = None
    """Number of samples of an `empirical` answer."""
    inclusion_P: Floats1 | None = None
    """Probability, in (0, 1], with which the expert drew this position; absent where it takes all.
    Dividing costs by it makes their sum unbiased although some positions were not drawn."""
    vocab_fingerprint: VocabFingerprint
    """The vocabulary of the ids; it must be the query's."""
    expert: Name
    """Name of the expert."""
    expert_version: str
    """Its version, as in `/v1/info`."""
    weights_before: WeightVersion | None = None
    """The version that was loaded when the batch began."""
    weights_after: WeightVersion | None = None
    """Must equal `weights_before`: the weights must not change while a batch runs."""
    template_version: str | None = None
    """Name of the template that built the context."""
    context_hash: Sha256 | None = None
    """SHA-256 of the ids of the context that the expert put before the response."""
    used_feedback: tuple[Key, ...] = ()
    """Ids of the feedback items that were rendered."""
    truncated: tuple[str, ...] = ()
    """Descriptions of what did not fit into the context."""
    temperature: float = 1.0
    """Always 1: answers at another temperature are refused."""
    latency_ms: float | None = None
    """Time to compute the answer."""
    cost: float | None = None
    """Price of the answer, in the deployment's unit."""

    def filled_PK(self) -> np.ndarray:
        """`[P, K]` True in the cells that hold an entry; none in a masked row."""
        K: int = self.ids_PK.shape[1]
        return (np.arange(K) < self.num_entries_P[:, None]) & self.mask_P[:, None]


# ---------------------------------------------------------------- feedback sources


class Episode(Request):
    """How an attempt of several turns went."""

    turns: tuple[Message, ...]
    """What the student wrote (`assistant`), and what it read in between (`tool` or `user`)."""
    environment: str | None = None
    """The environment that answered, with its version; null where tools did."""
    reward: float | None = None
    """The environment's own reward; null where it gave none."""
    text: str | None = None
    """What the environment said of a failure."""
    details: dict[str, JsonValue] = Field(default_factory=dict)
    """Further facts, such as the calls of tools and how long each took."""


class FeedbackQuery(Request):
    """Asks a feedback source to judge one attempt."""

    rollout_id: Key
    """The rollout to judge."""
    prompt: Prompt
    """The prompt of the attempt."""
    response_ids: Ints1
    """`[T]` the tokens of the attempt."""
    response_text: str
    """The same as text, without control tokens."""
    finish_reason: Literal["stop", "length"]
    """`length`: the attempt was cut off."""
    payload_sha256: Sha256
    """Blob with the task's private data (tests, reference solution)."""
    payload: JsonValue = None
    """The content of that blob. The dispatcher fills it in; callers leave it out."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """0 is first."""
    timeout_ms: Annotated[int, Field(ge=1, le=86_400_000)] = 60_000
    """How long the caller waits, from the submission on."""
    group_id: Key | None = None
    """Queries of one group share their prompt."""
    episode: Episode | None = None
    """Turns and outcome, where the student wrote several turns."""


class FeedbackAnswer(Answer):
    """The feedback items of a source. An item that failed has `error`."""

    items: tuple[FeedbackItem, ...]
    """The feedback items, in order."""
    source: Name
    """Name of the source."""
    source_version: str
    """Its version, as in `/v1/info`."""
    latency_ms: float | None = None
    """Time to judge the attempt."""
    cost: float | None = None
    """Price of the answer, in the deployment's unit."""


# ---------------------------------------------------------------- service routes


VocabularySize = Annotated[int, Field(ge=1, le=1 << 24)]
NumTokens = Annotated[int, Field(ge=1, le=1 << 31)]
NumBytes = Annotated[int, Field(ge=0, le=1 << 53)]
MOST_COST: Final = 1e9
"""Larger costs are refused as mistakes."""


class Capabilities(Answer):
    """The abilities of an expert or source; the gateway refuses queries beyond them on
    submission."""

    kinds: Annotated[tuple[AnswerKind, ...], Field(max_length=8)] = ("topk",)
    """The kinds of its answers."""
    max_top_k: VocabularySize | None = None
    """Most entries a position; no bound where absent."""
    candidates: bool = False
    """Scores ids that the caller names."""
    weights: bool = False
    """Answers with versioned weights and serves `PUT /v1/weights`."""
    adapters: bool = False
    """Takes versions of weights that are an adapter of an earlier version."""
    needs_feedback: bool = False
    """The expert has no opinion on a rollout without feedback in view."""
    late_s: Annotated[float, Field(gt=0, le=10 * 365 * 86_400)] | None = None
    """Seconds after which a promise of a late answer expires. None for an expert that answers in
    its reply: its promises are refused."""
    draws_positions: bool = False
    """The expert scores positions drawn at random: its answers may have `inclusion_P` below 1."""
    tokenizer: bool = False
    """Serves `POST /v1/tokenize`; the SDK sets it for a class with `tokenize`."""
    cacheable: Literal["true", "per_draw", "until_revised"] = "true"
    """`true`: equal queries have equal answers; `per_draw`: an answer belongs to one draw;
    `until_revised`: an answer is valid until people change it."""
    vocab_fingerprint: VocabFingerprint | None = None
    """The vocabulary of its ids."""
    vocab_size: VocabularySize | None = None
    """All ids are below this number."""
    head_size: VocabularySize | None = None
    """Rows of the model's head, which may be more than the vocabulary: log-probs are normalised
    over all of them, and the mass of the padding is part of the tail."""
    partial_entries: bool = False
    """Likely tokens may be missing among its entries, as for a teacher with another tokenizer that
    names only what it can align. The entries of every other expert are its best ones."""
    max_context: NumTokens | None = None
    """Tokens of context and response together."""
    cost_per_token: Annotated[float, Field(ge=0, le=MOST_COST)] | None = None
    """Price of one response token, in the deployment's unit; None where it is not known."""


class ServiceLimits(Answer):
    """Limits of a service per call; the dispatcher observes them."""

    max_batch: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Items in one call."""
    max_batch_tokens: NumTokens = 65_536
    """Tokens of prompts and responses in one call."""
    enough_tokens: NumTokens | None = None
    """The dispatcher adds no further job to a call of this many: a larger call has no higher
    throughput and a higher latency. None where a larger call is always better."""
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] = 1
    """Concurrent calls."""


class ServiceInfo(Answer):
    """`GET /v1/info` of every service."""

    name: Name
    """Name of the service, as configured in the service."""
    role: ServiceRole | Literal["gateway"]
    """`expert` answers with distributions, `source` with feedback."""
    version: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    """Changes whenever answers may change: code, configuration, template."""
    capabilities: Capabilities = Capabilities()
    """Its abilities."""
    limits: ServiceLimits = ServiceLimits()
    """Its limits per call."""
    frames: bool = False
    """Reads and writes frames as well as JSON."""
    contract: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """Version of the contract that it speaks, `MAJOR.MINOR`; absent is taken for a fitting one."""


class ServiceStatus(Answer):
    """One service as the gateway sees it."""

    name: Name
    """Its name in the deployment."""
    role: ServiceRole
    """Its role."""
    state: Literal["ready", "unreachable", "refused"]
    """`refused`: it answers, but its answers break the contract."""
    detail: str | None = None
    """Why it is not ready."""
    info: ServiceInfo | None = None
    """The last reply of its `GET /v1/info`."""


class Services(Answer):
    """Reply to `GET /v1/experts`: every expert and source that the gateway names; no addresses."""

    services: tuple[ServiceStatus, ...]
    """Experts and sources, in the order of the deployment."""


class LogprobsCall(Request):
    """`POST /v1/logprobs` of an expert."""

    queries: tuple[PrefixQuery, ...]
    """Answered in this order; at most `max_batch` of them."""
    answer_keys: tuple[Sha256, ...] = ()
    """For experts that answer later: the key of `PUT /v1/answers/{answer_key}` for each answer."""


class FeedbackCall(Request):
    """`POST /v1/feedback` of a source."""

    queries: tuple[FeedbackQuery, ...]
    """Answered in this order; at most `max_batch` of them."""


class PrefixResult(Answer):
    """One item of an expert's reply: an answer, a problem, or a promise to answer later."""

    answer: PrefixAnswer | None = None
    """The expert's answer."""
    problem: ProblemDetails | None = None
    """Why this query has no answer; the others stand."""
    accepted: Flag = False
    """True: the expert will put the answer to its answer key later."""


class FeedbackResult(Answer):
    """One item of a source's reply: an answer or a problem."""

    answer: FeedbackAnswer | None = None
    """The source's answer."""
    problem: ProblemDetails | None = None
    """Why this query has no answer; the others stand."""


class LogprobsReply(Answer):
    """Reply to `LogprobsCall`: one result per query, in order."""

    results: tuple[PrefixResult, ...]
    """As many as queries, in their order."""


class FeedbackReply(Answer):
    """Reply to `FeedbackCall`: one result per query, in order."""

    results: tuple[FeedbackResult, ...]
    """As many as queries, in their order."""


class WeightManifest(Request):
    """One immutable version of a policy's weights."""

    version: WeightVersion
    """Name of the version; its content never changes."""
    parent: WeightVersion | None = None
    """The version before the optimiser step that made this one, perhaps on another lineage; None
    for the first."""
    uri: str
    """`file:` URI of a folder under an allow-listed root."""
    files: dict[str, Sha256]
    """File name to SHA-256: `model.safetensors`, or those of an adapter,
    `adapter_model.safetensors` and `adapter_config.json`."""
    base: WeightVersion | None = None
    """The whole version that an adapter changes, an ancestor of this one; None where the files are
    all weights."""
    vocab_fingerprint: VocabFingerprint
    """The policy's vocabulary."""
    checkpoint: Flag = False
    """True where a checkpoint uses it: derived state, such as an EMA, is then kept."""
    num_bytes: NumBytes | None = None
    """Size of its files together; deadlines of those who read them follow from it."""


class WeightsOffer(Request):
    """`PUT /v1/weights` of a service: versions it may load, ancestors first."""

    manifests: tuple[WeightManifest, ...]
    """Each version comes after the versions that it was trained from."""


# ---------------------------------------------------------------- the gateway's routes


MOST_SUBMISSIONS: Final = 4096
"""Most queries in one request, so that one caller does not delay the others; a client splits larger
submissions."""


class PrefixSubmission(Request):
    """A query under the caller's own key: the same key with the same query is the same ticket."""

    idempotency_key: Key
    """The caller's own key."""
    query: PrefixQuery
    """The query."""


class FeedbackSubmission(Request):
    """A query under the caller's own key: the same key with the same query is the same ticket."""

    idempotency_key: Key
    """The caller's own key."""
    query: FeedbackQuery
    """The query."""


class LogprobsRequest(Request):
    """`POST /v1/logprobs` of the gateway.

    With `wait_ms` the reply is held until all are done or it is over.
    """

    expert: Name
    """Name of the expert in the deployment."""
    submissions: Annotated[tuple[PrefixSubmission, ...], Field(max_length=MOST_SUBMISSIONS)]
    """The queries, each under a key of the caller's own."""
    run: Name | None = None
    """Run that the queries belong to; late answers are listed by run."""
    batching: Literal["merge", "group"] = "merge"
    """`group`: each group is one separate call of the expert, in the given order
    (deterministic)."""
    wait_ms: Annotated[int, Field(ge=0, le=300_000)] = 0
    """How long the reply may be held; 0 replies at once."""


class FeedbackRequest(Request):
    """`POST /v1/feedback` of the gateway.

    With `wait_ms` the reply is held until all are done or it is over.
    """

    source: Name
    """Name of the source in the deployment."""
    submissions: Annotated[tuple[FeedbackSubmission, ...], Field(max_length=MOST_SUBMISSIONS)]
    """The queries, each under a key of the caller's own."""
    run: Name | None = None
    """Run that the queries belong to."""
    wait_ms: Annotated[int, Field(ge=0, le=300_000)] = 0
    """How long the reply may be held; 0 replies at once."""


class CollectRequest(Request):
    """`POST /v1/tickets/collect`: the outcomes of these tickets.

    The tickets of one call are all an expert's or all a source's; the reply is `LogprobsOutcomes`
    or `FeedbackOutcomes` accordingly.
    """

    tickets: Annotated[tuple[Key, ...], Field(max_length=10_000)]
    """Ids of the tickets, all of the same caller."""
    wait_ms: Annotated[int, Field(ge=0, le=300_000)] = 0
    """How long the reply may be held; 0 replies at once."""


TicketState = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]


class Ticket(Answer):
    """The state of one submission."""

    id: Key
    """Its id, under which the outcome is collected."""
    state: TicketState
    """`queued`: not asked yet. `running`: a dispatcher has it. `waiting`: the expert promised to
    answer later. `done`, `failed` and `cancelled` are final."""
    answer_key: Sha256
    """Key of the answer; equal queries share it."""
    answer_id: Key | None = None
    """Provenance id of the answer once it is stored."""
    cached: bool = False
    """Whether the answer was there already."""


class PrefixOutcome(Answer):
    """What became of one submission."""

    ticket: Ticket | None = None
    """The ticket; None where the submission was refused."""
    answer: PrefixAnswer | None = None
    """The answer, once there is one."""
    problem: ProblemDetails | None = None
    """Why there is none."""


class FeedbackOutcome(Answer):
    """What became of one submission."""

    ticket: Ticket | None = None
    """The ticket; None where the submission was refused."""
    answer: FeedbackAnswer | None = None
    """The answer, once there is one."""
    problem: ProblemDetails | None = None
    """Why there is none."""


class LogprobsOutcomes(Answer):
    """One outcome per submission, in order."""

    outcomes: tuple[PrefixOutcome, ...]
    """As many as submissions, in their order."""


class FeedbackOutcomes(Answer):
    """One outcome per submission, in order."""

    outcomes: tuple[FeedbackOutcome, ...]
    """As many as submissions, in their order."""


class Arrival(Answer):
    """A late answer that has arrived."""

    ticket: Key
    """Id of the ticket."""
    answer_key: Sha256
    """Key of the answer."""
    idempotency_key: Key
    """The caller's own key of the question."""
    answer_id: Key | None = None
    """Provenance id of the answer; None where the ticket has failed."""
    rollout_id: Key | None = None
    """The rollout that the question was about, where it named one."""


class Arrivals(Answer):
    """Reply to `GET /v1/arrivals?run=...&after=CURSOR&limit=...`, oldest first."""

    cursor: int
    """The cursor of the next request; it is part of a checkpoint."""
    arrivals: tuple[Arrival, ...]
    """The answers after the cursor, oldest first."""


class RunRecord(Request):
    """`POST /v1/runs`: one training run; its resolved configuration and versions."""

    run: Name
    """Its name."""
    config: dict[str, JsonValue]
    """The resolved configuration."""
    seed: int
    """The seed of all its randomness."""
    versions: dict[str, str]
    """Versions of the software, by name."""


class LineageRecord(Request):
    """`POST /v1/lineages`: a run's first lineage, or one that continues from a checkpoint."""

    run: Name
    """Name of the run."""
    lineage: Name
    """Name of the lineage within the run."""
    parent: Name | None = None
    """The lineage that it continues; None for the first."""
    from_step: Step = 0
    """The first step of this lineage; the parent's steps from here on are superseded."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Values that differ from the run's record, by dotted name, such as `steps` of an extended
    run."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions used by this lineage; the run's record has those of the first lineage."""


class RolloutRecord(Request):
    """One attempt of the student."""

    rollout_id: Key
    """Its id."""
    run: Name
    """Name of the run."""
    lineage: Name
    """The lineage that drew it."""
    step: Step
    """Index of the step that it was drawn for; the first is 0."""
    problem_id: Key
    """The problem that was attempted."""
    group_id: Key
    """Attempts at the same problem in the same step share it."""
    prompt: Prompt
    """What the student was asked."""
    response_ids: Ints1
    """`[T]` ids of the response, the end token included."""
    response_text: str
    """The response as text."""
    behaviour_logprobs: Floats1
    """`[T]` the policy's log-prob of each token when it was drawn."""
    owned: Bools1
    """`[T]` whether the student wrote the token itself."""
    weights: WeightVersion
    """Version of the policy that drew it."""
    finish_reason: Literal["stop", "length"]
    """`stop` at an end token, `length` where it was cut."""
    sampling: dict[str, JsonValue]
    """Settings of the sampler."""


class TargetRecord(Request):
    """The target of one rollout: its arrays and the answers that its components came from."""

    target_id: Key
    """Its id."""
    rollout_id: Key
    """The rollout that it is for."""
    builder_version: str
    """Version of the code that built it."""
    settings: dict[str, JsonValue]
    """Settings of the builder."""
    answer_ids: tuple[Key, ...]
    """Ids of the components' answers, in order."""
    feedback_ids: tuple[Key, ...]
    """Ids of the feedback that the answers had in view."""
    arrays: ArrayTree
    """The target's arrays, as `targets.Target.to_wire` gives them."""
    content_hash: Sha256
    """SHA-256 of the arrays."""


class Credit(Request):
    """Costs and credit per token of one rollout in one optimiser step."""

    rollout_id: Key
    """The rollout."""
    target_id: Key | None = None
    """Its target; None for a rollout without one."""
    costs: Floats1
    """`[T]` cross-entropy to the target at each position, in nats; `MISSING` where unlabelled."""
    advantages: Floats1
    """`[T]` future cost credited to each token, after baseline."""
    logprobs: Floats1
    """`[T]` the student's log-prob of each token at the start of the step."""


class Credits(Request):
    """A part of a step's credits: a blob that is put before the step, as JSON or as a frame."""

    consumed: tuple[Credit, ...]
    """Costs and credit of some of the step's rollouts."""


class StepRecord(Request):
    """`POST /v1/steps`: one optimiser step and every rollout that it consumed."""

    run: Name
    """Name of the run."""
    lineage: Name
    """The lineage that took the step."""
    step: Step
    """Index of the step; the first is 0."""
    loss: float
    """The loss that was minimised."""
    metrics: dict[str, float]
    """Further numbers of the step, by name."""
    consumed: tuple[Credit, ...]
    """Every rollout that the step used, with its costs and credit."""
    consumed_in: tuple[Sha256, ...] = ()
    """Blobs that each hold a frame of `Credits`, for a step whose credits exceed one body. Their
    credits follow those of `consumed`, in order."""
    weights_before: WeightVersion
    """Version of the policy before the step."""
    weights_after: WeightVersion
    """Version that the step made."""


class FeedbackRecord(Request):
    """A feedback item about a rollout that no source gave, such as the policy's own judgement."""

    rollout_id: Key
    """The rollout, which is on record."""
    item: FeedbackItem
    """The item; its id is unique among all items."""


class Records(Request):
    """`POST /v1/records`: provenance rows, written in one transaction; idempotent by their ids."""

    rollouts: tuple[RolloutRecord, ...] = ()
    """New rollouts; written before the targets."""
    targets: tuple[TargetRecord, ...] = ()
    """New targets; each names a rollout that is on record."""
    feedback: tuple[FeedbackRecord, ...] = ()
    """New feedback items that no source gave."""


class Accepted(Answer):
    """How many rows were new."""

    new: int
    """Number of new rows."""


class TraceSource(Answer):
    """One component of a target at one position, with its sources.

    `weight` 0 means that the expert has no opinion here; it then has no entries and no tail.
    """

    answer_id: Key
    """Provenance id of the answer."""
    expert: str
    """Name of the expert."""
    expert_version: str
    """The version that the expert declared."""
    weights: str | None = None
    """Version of the expert's weights; None where they have none."""
    template_version: str | None = None
    """Version of the prompt template; None where the expert has none."""
    context_hash: str | None = None
    """Hash of the context that the expert read, where it is known."""
    kind: AnswerKind
    """Kind of the expert's distribution."""
    weight: float
    """The expert's share of the target at this position."""
    inclusion: float | None = None
    """Probability with which the expert drew this position; None where it takes all positions."""
    entries: tuple[tuple[int, float], ...]
    """(token id, probability), best first."""
    tail: float | None = None
    """Probability of all tokens outside the entries."""
    own_logprob: float | None = None
    """The expert's value for the student's token; None where it is not known."""
    feedback: tuple[FeedbackItem, ...]
    """The feedback that the expert had in view."""


ItemState = Literal["standing", "superseded", "retired"]
"""Of a feedback item."""


class Judgement(Answer):
    """One feedback item of a rollout, and whether it counts."""

    item: FeedbackItem
    """The item as its source gave it."""
    state: ItemState = "standing"
    """An item that is `superseded` or `retired` does not count any more."""
    state_reason: str | None = None
    """Why it does not stand."""
    superseded_by: Key | None = None
    """The item that counts in its place."""


class GroupAttempt(Answer):
    """One attempt of a group, as its siblings are compared with it."""

    rollout_id: Key
    """The rollout."""
    score: float | None = None
    """Its reward by the run's rule; None where it has none."""
    solved: bool | None = None
    """Whether the score reaches the task's `solved_at`; None without a score."""


class Trace(Answer):
    """`GET /v1/targets/{id}/trace?position=t`, `GET /v1/rollouts/{id}/trace?position=t`.

    A student's token with the expert answers behind its target and their feedback; of a rollout
    without a target, with its judgements and the scores of its group.
    """

    target_id: Key | None = None
    """Id of the target; None for a rollout without one."""
    rollout_id: Key
    """The rollout that the token is of."""
    run: Name
    """Name of the run."""
    lineage: Name
    """The lineage that drew the rollout."""
    step: int
    """Index of the step that drew it; the first is 0."""
    problem_id: Key
    """The problem that was attempted."""
    prompt: Prompt
    """What the student was asked."""
    response_ids: Ints1
    """`[T]` ids of the response."""
    response_text: str
    """The response as text."""
    position: int
    """Position of the traced token in the response, from 0."""
    token_id: int
    """The student's token there."""
    student_weights: str
    """Version of the policy that drew the rollout."""
    student_logprob: float | None = None
    """None where the policy did not draw the token."""
    owned: bool
    """Whether the student wrote the token itself."""
    consumed_by: tuple[str, ...]
    """Steps on which this target, or rollout without one, was used, as `lineage/step`."""
    cost: float | None = None
    """Cross-entropy to the target here in the last step that used it, in nats; None where no step
    did, or without a label."""
    advantage: float | None = None
    """Weight of the token in that step, after the baseline: a future cost with DistIL, a gain with
    objectives on rewards, such as GRPO."""
    credit: float | None = None
    """The same with one sign for all objectives: above 0, the step made the token more likely."""
    sources: tuple[TraceSource, ...]
    """Every component of the target, in the order of the run's experts."""
    group_id: Key | None = None
    """The rollout's group; told where it has no target."""
    judgements: tuple[Judgement, ...] = ()
    """Every feedback item of the rollout, whatever its state; told where it has no target."""
    group: tuple[GroupAttempt, ...] = ()
    """Every attempt of the group, this one included; told where it has no target."""


class Accounting(Answer):
    """`GET /v1/runs/{run}/accounting`, from SQL."""

    run: Name
    """Name of the run."""
    lineage: Name | None = None
    """The newest lineage; the counts below are of it."""
    lineages: int
    """Number of its lineages."""
    steps: int
    """Surviving."""
    superseded_steps: int
    """Steps that a later lineage replaced."""
    rollouts: int
    """Of all lives."""
    targets: int
    """Of all lives."""
    consumed: int
    """Rollouts that surviving steps used."""
    consumed_twice: int
    """Rollouts used by more than one surviving step; above 0 is a fault."""
