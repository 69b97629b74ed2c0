"""What a run's file may hold.

    [model]
    path = "Qwen/Qwen3-0.6B"
    [data]
    train = "train.jsonl"
    eval = "dev.jsonl"
    [feedback]
    use = "judge.py:judge"
    [run]
    steps = 100

Every key has a default but the data and the feedback. Relative paths are relative to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from preceptor_clients.contract.schemas import Name
from preceptor_clients.contract.sections import Section, nearest
from preceptor_trainer.collect.prompts import WhenLonger
from preceptor_trainer.data.formats.named import make_format
from preceptor_trainer.environments.openenv.openenv import Actions
from preceptor_trainer.environments.tools.calls import CallForm
from preceptor_trainer.kit.placement import Precision
from preceptor_trainer.learner.lora import ALL_LINEAR, Lora
from preceptor_trainer.learner.moments import Moments
from preceptor_trainer.run.boards import BoardName
from preceptor_trainer.runfile.objectives import OBJECTIVES, objective_of
from preceptor_trainer.tasks.programming_by_example.task import EXECUTOR

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0)]
Wait = Annotated[float, Field(ge=0)]
EXECUTOR_USE: Final = EXECUTOR
JUDGE_USE: Final = "judge"
"""A language model that answers the criteria of a rubric."""
ENVIRONMENT_USE: Final = "environment"
"""What the environment of the attempt said of it."""
SELF_USE: Final = "self"
"""The policy itself, as such a judge."""


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class LoraSection(Section):
    """`[model.lora]`: trains small matrices beside the model's weights, which stay."""

    rank: Positive = 16
    """Rows and columns of the matrices of a layer; more can say more, and take more memory."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The matrices' product counts `alpha` / `rank` times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that an update sets to zero; attempts are drawn without it."""
    targets: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (
        ALL_LINEAR,
    )
    """Ends of the names of layers that get an adapter, such as `["q_proj", "v_proj"]`; `all-linear`
    is every linear layer but the output embedding."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.made()
        return self

    def made(self) -> Lora:
        """The settings of the adapter."""
        return Lora(rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=self.targets)


class ModelSection(Section):
    """`[model]`: the student."""

    path: str | None = None
    """Folder of a Hugging Face model, or its name on the hub, `ORG/NAME` or `ORG/NAME@REVISION`;
    the student that preceptor ships where absent."""
    device: str = "auto"
    """Torch device of student and teachers; `auto` is the GPU where torch sees one, else the
    CPU."""
    dtype: Precision = "float32"
    """Data type of the student's passes; its weights and the optimiser's state are float32."""
    publish: Precision = "float32"
    """Data type of the versions that teachers and a sampling service load; `bfloat16` halves their
    files. Checkpoints keep float32. Not with `lora`."""
    scratch: str | None = None
    """Folder for the versions between checkpoints; `/dev/shm` is shared memory, so that they reach
    teachers and sampler without a disk. Where absent they are in the run's folder. Not with
    `rollout.staleness`."""
    lora: LoraSection | None = None
    """Trains an adapter; where absent, all weights are trained."""


class DataSection(Section):
    """`[data]`: what the student is asked."""

    train: str
    """Training rows: a JSON, JSON lines or parquet file, the folder of a data set, its name on the
    hub, `ORG/NAME` or `ORG/NAME@REVISION`, or `environment`: the tasks that `[environment]` lists,
    for `openenv`."""
    eval: str | None = None
    """Held-out rows, in one of the same forms; they must not be trained on."""
    eval_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows that is held out, in the place of `eval`."""
    eval_seed: Annotated[int, Field(ge=0)] | None = None
    """Seed by which `eval_share` is drawn as `train_test_split` of `datasets` does; the papers' is
    42. Where absent, the rows' ids choose."""
    eval_rows: Positive | None = None
    """Most held-out rows that are used; all where absent."""
    subset: str | None = None
    """Subset of a data set that has several."""
    train_split: str = "train"
    """Split of a data set, or of an environment's tasks, that is trained on."""
    eval_split: str | None = None
    """Split of a data set that is held out; without `eval`, that of the training data set."""
    format: str | None = None
    """Name of the files' format, such as `sciknoweval`; the reference lists the formats."""
    format_options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of the format."""
    prompt: str | None = None
    """User turn, with `{column}` for a column's value; a row's `prompt` or `messages` where
    absent."""
    system: str | None = None
    """System turn for chats that begin without one."""
    reference: str | None = None
    """Column with a right answer, for objectives that imitate it or a teacher that sees it."""
    max_prompt: Positive | None = None
    """Most tokens of a prompt; rows beyond it are counted. Where absent, what the model's context
    leaves beside `rollout.max_tokens`."""
    long_prompts: WhenLonger = "skip"
    """`skip` drops rows beyond `max_prompt`; `cut` takes the beginning of their last user turn
    away."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Further variables of the chat template, such as `{ enable_thinking = false }`."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """What happens to a row with the id, or without an id with the content, of an earlier one."""
    overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """What happens to a training row with the id or the prompt of a held-out row."""
    shuffle: bool = True
    """Whether every epoch has its own random order."""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> Self:
        if self.eval_share is not None and (self.eval or self.eval_split):
            raise ValueError("eval_share: not together with `eval` or `eval_split`")
        if self.eval_seed is not None and self.eval_share is None:
            raise ValueError("eval_seed: belongs to `eval_share`")
        return self

    @model_validator(mode="after")
    def _format_is_known(self) -> Self:
        if self.format is not None:
            try:
                make_format(self.format, self.format_options)
            except ValueError as error:
                raise ValueError(f"format: {error}") from None
        elif self.format_options:
            raise ValueError("format_options: belong to a format; name it in `format`")
        return self


class SourceSection(Section):
    """`[feedback.sources.NAME]`: one of several sources."""

    use: str
    """`FILE.py:NAME` for a function of yours, a verifier's name, `executor`, `judge` for a
    language model with a rubric, or `self` for the policy itself as a judge."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of the function, or options of the executor or the judge."""
    weight: float = 1.0
    """What its score is multiplied by, where `reward` is `sum` or `mean`."""
    expert_may_see: bool = True
    """Whether teachers may read its texts."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Time limit of one call; a call beyond it is an error and no score."""
    workers: Positive = 2
    """Processes that judge."""


class FeedbackSection(Section):
    """`[feedback]`: who judges an attempt."""

    use: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """`FILE.py:NAME` for a function of yours, a verifier's name, `executor`, `judge`, `self`, or a
    list of them."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of the function, or options of executor or judge, where `use` names one."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Time limit of one call, for the sources of `use`."""
    workers: Positive = 2
    """Processes of each source of `use`."""
    sources: dict[Name, SourceSection] = Field(default_factory=dict)
    """Sources with settings of their own, by name."""
    reward: Literal["sum", "mean", "min", "first"] = "sum"
    """How the scores of several sources become one reward; `first` is that of the first source, and
    the others only say what is wrong."""
    solved_at: float = 0.5
    """Lowest reward of an attempt that counts as solved."""
    max_failed: Rate = 0.25
    """Largest share of a step's attempts that may be without a reward because a source failed;
    beyond it the run stops with the reason."""

    @model_validator(mode="after")
    def _options_belong_to_one(self) -> Self:
        if self.options and len(self.use) != 1:
            raise ValueError(
                "options: belong to the one source of `use`; give several sources each a table "
                "[feedback.sources.NAME] with `use` and `options`"
            )
        return self


class SamplerSection(Section):
    """`[rollout.sampler]`: a service or a model server that draws the attempts, such as vLLM's."""

    url: str
    """Its address."""
    kind: Literal["service", "vllm", "sglang"] = "service"
    """What it is: a service with `POST /v1/generate`, or a server of vLLM's or SGLang's own."""
    key_file: Path | None = None
    """File with its key."""
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest wait for one call, which draws the attempts at some of a step's prompts, or has a
    server load a version."""
    sleeps: bool = False
    """Whether it gives up its memory while the trainer updates, where both have one GPU."""
    shared: bool = False
    """Whether other runs draw from the same server of vLLM's or SGLang's too; each trains an
    adapter (`model.lora`) and has a name of its own."""
    weights: Literal["files", "sent", "broadcast"] = "files"
    """How a server of vLLM's gets each version: it reads the run's files, or, where it does not see
    them, is sent the weights from the trainer's memory, over HTTP or by gloo."""


class RolloutSection(Section):
    """`[rollout]`: how attempts are made."""

    n: Positive = 8
    """Attempts at each prompt of a step, which are a group."""
    max_tokens: Positive = 256
    """Most tokens of a response; beyond it the response is cut off."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits; objectives that learn from the policy's own samples need 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keeps the smallest set of tokens with this probability; 1 keeps all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keeps this many tokens; 0 keeps all."""
    given_share: Rate = 0.0
    """Share of each group that is the row's reference instead of an attempt; `sft` needs 1."""
    max_turns: Positive = 8
    """Most turns of the student in an attempt with tools; beyond it the attempt is cut off."""
    turn_tokens: Positive | None = None
    """Most tokens of one turn in an attempt with tools, where `max_tokens` is for all turns and
    all that tools say."""
    calls: CallForm = "hermes"
    """How the student writes a call of a tool: `hermes`, `json`, `fence`, `react` or `turn`."""
    max_output: Annotated[int, Field(ge=16)] = 2_000
    """Most characters of what a tool says; the rest is left out."""
    reply_role: Literal["tool", "user"] | None = None
    """Role of what a tool says in the chat template; where absent, `tool`, and `user` for templates
    that show no such turn."""
    max_failed: Rate = 0.5
    """Largest share of a step's attempts whose tools or environment could not be reached; above it
    the run ends."""
    more_prompts: Positive | None = None
    """Where groups have equal rewards, up to this many further prompts a step replace them."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """Steps that collection may be ahead of the optimiser; 0 collects and trains in turn, and
    repeats exactly. Attempts of an older policy are weighted by the log-probs of its tokens."""
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    """Longest wait of a step for a teacher, where `staleness` is not 0; later answers join a later
    step. Where absent, as long as a question may take (`run.timeout_s`)."""
    join_within: Positive = 8
    """Most steps that attempts may be behind which join a step with late answers; answers that come
    later are dropped."""
    sampler: SamplerSection | None = None
    """Who draws the attempts; the trainer's own process where absent."""

    @model_validator(mode="after")
    def _late_answers_need_overlap(self) -> Self:
        given = sorted({"deadline_s", "join_within"} & self.model_fields_set)
        if given and not self.staleness:
            raise ValueError(f"{given[0]}: needs staleness above 0, or no step goes on without it")
        if "join_within" in given and self.join_within < self.staleness:
            raise ValueError(
                f"join_within: must be at least staleness = {self.staleness}, not "
                f"{self.join_within}"
            )
        return self


class ToolSection(Section):
    """`[[tools]]`: something that the student may call within an attempt."""

    use: str | None = None
    """`FILE.py:NAME` for a function of yours, `FILE.json` for a table from keys to texts, or
    `executor` for Python."""
    command: tuple[str, ...] = ()
    """Command of an MCP server that speaks on its standard streams, in the place of `use`."""
    url: str | None = None
    """Address of an MCP server, in the place of `use`."""
    name: str | None = None
    """Name of the tool; the function's, `lookup` or `python` where absent. MCP servers name their
    own."""
    description: str | None = None
    """What the student is told of it; a function's docstring where absent."""
    mode: Literal["program", "expression"] = "program"
    """For `executor`: a program gives what it prints, an expression its value."""
    only: tuple[str, ...] = ()
    """Tools of an MCP server that the student gets; all where empty."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Further variables of the environment of `command`."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Time limit of one call; a call beyond it is answered with that."""
    workers: Positive = 2
    """Processes that call a function of yours."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of the executor that is started for a tool `executor`."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [bool(self.use), bool(self.command), bool(self.url)]
        if sum(given) != 1:
            raise ValueError("use: a tool has one of `use`, `command` and `url`")
        if self.use is None and (self.name or self.description):
            raise ValueError("name: an MCP server names and describes its tools itself")
        return self


_OF_OPENENV: Final = {
    *("actions", "action_field", "action_tool"),
    *("observation_field", "reset", "max_tasks"),
}
_OF_VERIFIERS: Final = {"listen", "callback"}


class EnvironmentSection(Section):
    """`[environment]`: a server in which attempts are made."""

    url: str
    """Address of the server: `http://HOST:PORT` for `openenv`, `tcp://HOST:PORT` for
    `verifiers`."""
    use: Literal["openenv", "verifiers"] = "openenv"
    """What the server speaks: OpenEnv's protocol, or that of verifiers' `EnvServer`."""
    actions: Actions = "json"
    """What a turn is, for `openenv`: `field`, the text of one field of an action; `json`, text that
    ends with an action as a JSON object; `tools`, calls of the environment's tools."""
    action_field: str | None = None
    """Field of an action that a turn fills, for `field`."""
    action_tool: str | None = None
    """Tool of the environment, for `field`: a turn calls it with the argument `action_field`."""
    observation_field: str | None = None
    """Field of an observation that is shown, for `openenv`; the whole as JSON where absent."""
    reset: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of every reset, for `openenv`, beside a row's `seed`, `split`, `index` and
    `episode`."""
    max_tasks: Positive | None = None
    """Most tasks of a split that are taken, for `openenv` where `[data]` names `environment`: the
    first ones; all where absent."""
    listen: str = "127.0.0.1:0"
    """Host and port at which the trainer awaits what an environment of `verifiers` asks the
    student; port 0 is any."""
    callback: str | None = None
    """The same as the environment sees it, `http://HOST:PORT`, where it runs elsewhere."""
    sessions: Positive = 16
    """Most attempts at a time; no more than the server allows."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for what the environment says next."""
    wait_s: Annotated[float, Field(ge=0)] = 300.0
    """Longest wait for a session where the server is full."""

    @model_validator(mode="after")
    def _action_has_its_field(self) -> Self:
        if (self.actions == "field") != (self.action_field is not None):
            raise ValueError("action_field: belongs to actions = `field`, which needs it")
        if self.action_tool is not None and self.actions != "field":
            raise ValueError("action_tool: belongs to actions = `field`")
        return self

    @model_validator(mode="after")
    def _is_of_its_protocol(self) -> Self:
        others = {"openenv": _OF_VERIFIERS, "verifiers": _OF_OPENENV}[self.use]
        given = sorted(others & self.model_fields_set)
        if given:
            raise ValueError(f"{given[0]}: has no meaning for use = {self.use!r}")
        return self


class SelfTeacherSection(Section):
    """`[teacher.self]`: the student itself, with feedback in view."""

    ema: Rate = 0.05
    """Share of the newest weights in its moving average; 1 is the student, 0 its first weights."""
    trust_region: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of that average in a mixture with the first weights, as in SDPO."""
    template: str | None = None
    """How feedback is put into the prompt: `papers`, `sdpo`, `compact` or a Jinja file; `papers`
    where absent, `compact` for the shipped student."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides its logits; below 1 its distribution is sharper."""
    name: Name = "self-teacher"
    """Its name at the gateway, for a gateway of yours that has it under another."""
    weight: Weight = 1.0
    """Its share where there are several teachers."""
    top_k: Positive = 32
    """Tokens of its distribution at each position."""
    deadline_s: Wait | None = None
    """Longest wait of a step for it, in the place of `rollout.deadline_s`; with 0 no step waits."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further options of the expert `SelfTeacher`, such as `max_context` and `memory_mb`."""


class ModelTeacherSection(Section):
    """`[teacher.model]`: another model with the student's tokenizer."""

    path: str
    """Folder of the model, or its name on the hub, with `@REVISION` where asked."""
    reads_feedback: bool = False
    """Whether it reads the feedback that the self-teacher reads, or the plain prompt."""
    template: str = "papers"
    """How feedback is put into the prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides its logits; below 1 its distribution is sharper."""
    name: Name = "larger-model"
    """Its name at the gateway, for a gateway of yours that has it under another."""
    weight: Weight = 1.0
    """Its share where there are several teachers."""
    top_k: Positive = 32
    """Tokens of its distribution at each position."""
    deadline_s: Wait | None = None
    """Longest wait of a step for it, in the place of `rollout.deadline_s`; with 0 no step waits."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further options of the expert `LargerModel`, such as `dtype` and `memory_mb`."""


class ServerTeacherSection(Section):
    """`[teacher.server]`: a model behind an OpenAI-compatible server."""

    url: str
    """Address of the server, with or without `/v1`."""
    model: str | None = None
    """Name of the server's model; may be absent where it has only one."""
    tokenizer: Path | None = None
    """Folder with the tokenizer and chat template of the server's model, where its tokenizer is not
    the student's: its tokens are then aligned with the student's by their bytes."""
    key_file: Path | None = None
    """File with the server's key."""
    reads_feedback: bool = False
    """Whether it reads the feedback that the self-teacher reads, or the plain prompt."""
    template: str = "papers"
    """How feedback is put into the prompt."""
    name: Name = "server"
    """Its name at the gateway, for a gateway of yours that has it under another."""
    weight: Weight = 1.0
    """Its share where there are several teachers."""
    top_k: Positive = 20
    """Tokens of its distribution at each position; the server's own cap may be lower."""
    deadline_s: Wait | None = None
    """Longest wait of a step for it, in the place of `rollout.deadline_s`; with 0 no step waits."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further options of the expert: `OpenAIServer`, or `Aligning` where `tokenizer` is given."""


class PeopleSection(Section):
    """`[teacher.people]`: people who correct attempts, beside the other teachers."""

    select: Annotated[
        tuple[Literal["failed", "disagreement", "uncertainty", "random"], ...],
        BeforeValidator(_as_tuple),
        Field(min_length=1),
    ] = ("failed",)
    """Which attempts are sent to people; of several rules any is enough."""
    disagreement: Rate = 0.5
    """Total variation between two teachers from which on `disagreement` selects."""
    uncertainty: Annotated[float, Field(ge=0)] = 0.5
    """Nats a token from which on `uncertainty` selects."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the attempts that `random` selects."""
    round_steps: Positive = 10
    """Steps of one round of corrections."""
    per_round: Positive = 50
    """Most attempts of one round."""
    double_share: Rate = 0.1
    """Share of the attempts that two people correct, each alone."""
    guidelines: str = ""
    """What people read beside each attempt."""
    per_step: Positive = 16
    """Corrected sequences of one step, drawn from all corrections that have arrived."""
    weight: Weight = 1.0
    """Weight of a person's label, relative to a position of another teacher."""
    takeover: bool = True
    """Whether the corrected text is a second sequence to learn from."""
    feedback: bool = False
    """Whether the other teachers read the corrected text."""
    forced: Annotated[int, Field(ge=0)] = 0
    """Attempts of a step that begin with a correction and are continued by the student."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further options of the expert `PeopleExpert`, such as `smoothing`."""


class TeacherSection(Section):
    """`[teacher]`: who shows what would have been better, and what is in its view."""

    self: SelfTeacherSection | None = None
    """The student itself; the teacher where no other is named."""
    model: ModelTeacherSection | None = None
    """Another model."""
    server: ServerTeacherSection | None = None
    """A server."""
    people: PeopleSection | None = None
    """People. No step waits for them; where no other teacher is named, the student is one too."""
    demonstrations: bool = True
    """Whether a solved attempt at the same prompt may be in view."""
    own_solution: bool = False
    """Whether a solved attempt has itself in view."""
    own_feedback: bool = True
    """Whether an attempt without a demonstration has its own feedback in view."""
    reference: bool | None = None
    """Whether the row's reference is in view, and nothing else; where absent, for `opsd` alone."""


class ObjectiveSection(Section):
    """`[objective]`: what is minimised."""

    use: str = "distil"
    """Name of the objective."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of the objective's class; a class in a field is a table."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.use not in OBJECTIVES:
            raise ValueError(f"use: {self.use!r} is no objective; {nearest(self.use, OBJECTIVES)}")
        objective_of(self.use, self.options)
        return self


class OptimSection(Section):
    """`[optim]`: the optimiser."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps until the full learning rate."""
    decay: bool = False
    """Whether the rate falls linearly to zero at the end of the run, or stays."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay of matrices."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm."""
    moments: Moments = "float32"
    """What the optimiser keeps of earlier gradients: 8 bytes for each trained number, or 4 with
    `bfloat16`, rounded at random; `host` keeps the 8 bytes of a run on a GPU in main memory and
    takes the steps there, in a run of one process."""
    prompts_per_step: Positive = 8
    """Prompts of one optimiser step, with `rollout.n` attempts at each."""
    tokens_per_microbatch: Positive = 4096
    """Padded tokens of one forward and backward pass; does not change the result."""
    packing: bool = False
    """Whether the update computes no padding: rows share a sequence, prompts are read once, and
    `tokens_per_microbatch` counts real tokens."""
    checkpointing: bool = False
    """Whether an update keeps what enters each layer alone, and computes the rest again in the
    backward pass: about a tenth of the activations for a third more time; the result is the same.
    Not together with `model.lora.dropout`."""


class RunSection(Section):
    """`[run]`: how long, how often, and where."""

    name: Name | None = None
    """Name of the run; the file's own where absent."""
    folder: Path = Path("runs")
    """Folder of runs; the run is in a folder of its name in it."""
    seed: int = 0
    """Decides the order of rows and every sample."""
    steps: Positive = 100
    """Optimiser steps."""
    eval_every: Positive | None = None
    """Steps between evaluations on the held-out rows, beside those before and after."""
    eval_samples: Positive = 4
    """Samples of each held-out row."""
    eval_ks: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """The k of pass@k; 1 and `eval_samples` where absent."""
    save_every: Positive = 10
    """Steps between checkpoints."""
    keep: Positive = 3
    """Checkpoints that stay on disk, beside the best one and the first version."""
    log: Annotated[tuple[BoardName, ...], BeforeValidator(_as_tuple)] = ("tensorboard",)
    """Boards that show the metrics: `tensorboard`, `wandb`, `trackio`; the last two are extras of
    these names."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait for feedback, and for teachers."""
    ranks: Positive = 1
    """Processes of this machine that share the update, each on a GPU of its own where there are
    GPUs; a run may go on with another number."""
    threads: Positive = 2
    """Threads of torch, in the trainer and in each teacher on this machine."""
    when_short: Literal["refuse", "warn"] = "refuse"
    """What `preceptor train` does where the machine has less memory, or the folder less room on
    disk, than `preceptor plan` says; it never refuses what may fit once others are done."""
    gateway: str | None = None
    """URL of a gateway that runs already; where absent, all services are started for the run."""
    key_file: Path | None = None
    """File with a key of scope `trainer`, for `gateway`."""

    @model_validator(mode="after")
    def _gateway_has_a_key(self) -> Self:
        if (self.gateway is None) != (self.key_file is None):
            raise ValueError("gateway: `gateway` and `key_file` are given together")
        return self


class RunFile(Section):
    """The whole file."""

    model: ModelSection = ModelSection()
    """The student."""
    data: DataSection
    """What the student is asked."""
    feedback: FeedbackSection = FeedbackSection()
    """Who judges an attempt."""
    rollout: RolloutSection = RolloutSection()
    """How attempts are made."""
    tools: tuple[ToolSection, ...] = ()
    """What the student may call within an attempt."""
    environment: EnvironmentSection | None = None
    """Where attempts are made, in the place of tools."""
    teacher: TeacherSection = TeacherSection()
    """Who shows what would have been better."""
    objective: ObjectiveSection = ObjectiveSection()
    """What is minimised."""
    optim: OptimSection = OptimSection()
    """The optimiser."""
    run: RunSection = RunSection()
    """How long, how often, and where."""

    @model_validator(mode="after")
    def _tasks_have_a_server(self) -> Self:
        taken = [name for name, source in (("train", self.data.train), ("eval", self.data.eval))
                 if source == ENVIRONMENT_USE]  # fmt: skip
        section = self.environment
        if taken and (section is None or section.use != "openenv"):
            why = "is missing" if section is None else f"is of use = {section.use!r}"
            raise ValueError(
                f"data.{taken[0]}: {ENVIRONMENT_USE!r} are the tasks that a server of OpenEnv's "
                f"protocol lists, but [environment] {why}; name a data file"
            )
        if not taken and section is not None and section.max_tasks is not None:
            raise ValueError(
                "environment.max_tasks: has a meaning where data.train or data.eval is "
                "`environment`"
            )
        return self


def settings_of(run_file: RunFile) -> dict[str, Any]:
    """The whole file with its defaults, as JSON values."""
    return run_file.model_dump(mode="json")
