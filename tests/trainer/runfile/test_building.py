"""Claims about the run and the deployment that a file describes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from preceptor_clients.contract.deployment import parse_deployment, to_toml
from preceptor_services.experts.remote.aligned.aligning import AligningConfig
from preceptor_trainer.collect.context import NothingInView, PapersContext
from preceptor_trainer.collect.people.people import PeopleConfig
from preceptor_trainer.collect.people.selection import AnyOf, Failed, RandomShare
from preceptor_trainer.data.epochs import Epochs
from preceptor_trainer.learner.lora import Lora
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.recipes.references import ReferenceInView
from preceptor_trainer.run.config import describe, describe_run
from preceptor_trainer.run.schedules import Deterministic, Overlapped
from preceptor_trainer.runfile.building import Built
from preceptor_trainer.runfile.objectives import OBJECTIVES
from preceptor_trainer.sampling.dialect import WeightPath
from preceptor_trainer.sampling.server import SampledByServer
from preceptor_trainer.sampling.service import SampledByService
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.combined import CombinedTask
from preceptor_trainer.tasks.task import ScoredTask

BuildFile = Callable[..., Built]


def test_a_short_file_is_a_whole_run(build_file: BuildFile, folder: Path) -> None:
    built = build_file()
    config = built.config

    assert isinstance(config.problems, Epochs)
    assert (len(config.problems.rows), config.problems.per_step) == (12, 8)
    assert config.model == STUDENT_DIR
    assert config.evaluation is not None
    assert config.evaluation.ks == (1, 4)
    assert config.objective == DistIL(length_constant=256.0)
    assert config.task == ScoredTask(sources=("judge",))
    assert config.context == PapersContext()
    assert [expert.name for expert in config.experts] == ["self-teacher"]
    assert built.deployment.sources["judge"].options["function"] == f"{folder}/judge.py:judge"
    assert built.deployment.experts["self-teacher"].options["template"] == "compact"
    assert built.notes == ()


def test_its_deployment_is_one_that_services_read(build_file: BuildFile) -> None:
    built = build_file("feedback.options={strict = true}")

    assert parse_deployment(to_toml(built.deployment)) == built.deployment


def test_rows_are_packed_where_the_file_says_so(build_file: BuildFile) -> None:
    assert build_file("optim.packing=true").config.packing
    assert not build_file().config.packing


def test_the_hash_of_the_data_is_recorded(build_file: BuildFile, folder: Path) -> None:
    before = describe(build_file().config)
    path = folder / "dev.jsonl"
    path.write_text(path.read_text().replace('"answer": "0"', '"answer": "zero"'))
    after = describe(build_file().config)

    assert re.fullmatch("[0-9a-f]{64}", before["problems"]["rows"]["sha256"])
    assert before["problems"] == after["problems"]
    assert before["evaluation"]["problems"] != after["evaluation"]["problems"]
    json.dumps(before, allow_nan=False)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_is_one_word_of_the_file(build_file: BuildFile, name: str) -> None:
    built = build_file(f"objective.use={name}", "data.reference=answer", "rollout.given_share=0.5")

    assert type(built.config.objective) is OBJECTIVES[name].cls
    assert bool(built.config.experts) == (name not in ("grpo", "sft"))
    assert built.deployment.experts.keys() == {expert.name for expert in built.config.experts}


def test_an_objectives_options_are_its_fields_and_tables_their_classes(
    build_file: BuildFile,
) -> None:
    built = build_file(
        "objective.use=grpo", "objective.options={clip = {high = 0.28}, divide_by = 'tokens'}"
    )
    other = build_file("objective.use=sdpo", "objective.options.divergence={alpha = 1}")

    assert isinstance(built.config.objective, GRPO)
    assert (built.config.objective.clip.high, built.config.objective.divide_by) == (0.28, "tokens")
    assert isinstance(other.config.objective, SDPO)
    assert other.config.objective.divergence.alpha == 1


def test_rewards_alone_ask_no_teacher_and_say_so(build_file: BuildFile) -> None:
    built = build_file("objective.use=grpo", "teacher.self.ema=0.1")

    assert built.config.experts == ()
    assert isinstance(built.config.context, NothingInView)
    assert built.notes == ("grpo asks no teacher, so [teacher] is not used",)


def test_a_runs_record_says_where_advantages_are_gains(build_file: BuildFile) -> None:
    gains, costs = build_file("objective.use=grpo").config, build_file().config

    assert describe_run(gains)["objective"]["advantages"] == "gains"
    assert describe_run(costs) == describe(costs)


def test_several_teachers_are_a_mixture_by_weight(build_file: BuildFile, folder: Path) -> None:
    built = build_file(
        "teacher.self.weight=0.25",
        f"teacher.model={{path = '{STUDENT_DIR}', weight = 0.75, options = {{dtype = 'float32'}}}}",
        "teacher.server={url = 'http://127.0.0.1:9', model = 'big'}",
    )
    uses = {expert.name: expert for expert in built.config.experts}

    assert {n: use.weight for n, use in uses.items()} == {
        "self-teacher": 0.25,
        "larger-model": 0.75,
        "server": 1.0,
    }
    assert uses["self-teacher"].needs_feedback
    assert not uses["larger-model"].needs_feedback
    assert built.deployment.experts["larger-model"].options["dtype"] == "float32"
    assert built.deployment.experts["server"].options["tokenizer"] == str(STUDENT_DIR)


def test_a_teacher_with_another_tokenizer_is_aligned(build_file: BuildFile) -> None:
    built = build_file(
        f"teacher.server={{url = 'http://127.0.0.1:9', tokenizer = '{STUDENT_DIR}'}}"
    )
    [use], service = built.config.experts, built.deployment.experts["server"]

    assert (use.own_logprobs, use.scores_candidates) == (False, False)
    assert service.options["teacher_tokenizer"] == str(STUDENT_DIR)
    assert AligningConfig(**service.options).teacher_tokenizer == str(STUDENT_DIR)


def test_a_teacher_may_have_another_name_at_a_gateway_of_yours(build_file: BuildFile) -> None:
    built = build_file("teacher.self.name=mine")

    assert built.config.experts[0].name == "mine"
    assert built.deployment.experts["mine"].options["name"] == "mine"


def test_collection_goes_ahead_of_the_optimiser_where_asked(build_file: BuildFile) -> None:
    assert build_file().config.schedule == Deterministic()
    assert build_file("rollout.staleness=2").config.schedule == Overlapped(staleness=2)
    assert build_file("rollout.staleness=9").config.schedule.overlapped.join_within == 9


def test_a_server_of_another_kind_draws_where_asked(build_file: BuildFile) -> None:
    built = build_file('rollout.sampler={ url = "http://s:8000", kind = "vllm", timeout_s = 9 }')

    assert built.config.sampler == SampledByServer(url="http://s:8000", kind="vllm", timeout_s=9)


def test_several_runs_share_a_server_only_with_adapters(build_file: BuildFile) -> None:
    shared = 'rollout.sampler={ url = "http://s:8000", kind = "vllm", shared = true }'

    built = build_file(shared, "model.lora.rank=2")

    server = SampledByServer(url="http://s:8000", kind="vllm", shared=True)
    assert built.config.sampler == server
    with pytest.raises(ValueError, match=r"sampler\.shared: .*`model\.lora`"):
        build_file(shared)
    with pytest.raises(ValueError, match=r"sampler\.sleeps: a server that several runs share"):
        build_file(shared, "model.lora.rank=2", "rollout.sampler.sleeps=true")
    with pytest.raises(ValueError, match=r"rollout\.sampler\.shared: is for `kind"):
        build_file(shared, "model.lora.rank=2", 'rollout.sampler.kind="service"')


@pytest.mark.parametrize("weights", ["sent", "broadcast"])
def test_a_server_of_vllms_alone_is_sent_whole_versions(
    build_file: BuildFile, weights: WeightPath
) -> None:
    sent = f'rollout.sampler={{ url = "http://s:8000", kind = "vllm", weights = "{weights}" }}'

    built = build_file(sent)

    server = SampledByServer(url="http://s:8000", kind="vllm", weights=weights)
    assert built.config.sampler == server
    with pytest.raises(ValueError, match=r"sampler\.weights: .*kind 'sglang' reads files"):
        build_file(sent, 'rollout.sampler.kind="sglang"')
    with pytest.raises(ValueError, match=r"rollout\.sampler\.weights: is for `kind"):
        build_file(sent, 'rollout.sampler.kind="service"')
    with pytest.raises(ValueError, match=r"sampler\.weights: .*leave out `weights` or `shared`"):
        build_file(sent, "model.lora.rank=2", "rollout.sampler.shared=true")


def test_a_sampler_does_not_sleep_where_attempts_are_drawn_during_the_update(
    build_file: BuildFile,
) -> None:
    sampler = 'rollout.sampler={ url = "http://s:8106", sleeps = true }'

    assert build_file(sampler).config.sampler == SampledByService(url="http://s:8106", sleeps=True)
    with pytest.raises(ValueError, match=r"sampler\.sleeps: needs staleness 0"):
        build_file(sampler, "rollout.staleness=1")


def test_a_deadline_of_a_teacher_takes_the_place_of_the_steps(build_file: BuildFile) -> None:
    late = ("rollout.staleness=1", "rollout.deadline_s=20", "rollout.join_within=4")

    config = build_file(*late, "teacher.self.deadline_s=0").config

    assert config.schedule == Overlapped(staleness=1, deadline_s=20, join_within=4)
    assert config.experts[0].deadline_s == 0


def test_the_rate_warms_up_and_falls_to_zero_at_the_runs_end(build_file: BuildFile) -> None:
    optimiser = build_file("optim.warmup_steps=5", "optim.decay=true").config.optimiser

    assert (optimiser.warmup_steps, optimiser.decay_until) == (5, 100)


def test_people_correct_beside_the_other_teachers(build_file: BuildFile) -> None:
    built = build_file(
        'teacher.people={select = ["failed", "random"], share = 0.5, per_round = 4, weight = 2}'
    )
    [people] = built.config.participants
    service = built.deployment.experts["people"]

    assert isinstance(people, PeopleConfig)
    assert people.select == AnyOf(policies=(Failed(), RandomShare(share=0.5)))
    assert (people.per_round, people.weight) == (4, 2.0)
    assert [expert.name for expert in built.config.experts] == ["self-teacher"]
    assert service.options == {"config": "resolved.toml", "model": str(STUDENT_DIR)}
    assert built.deployment.keys["expert"].service == ("people",)


def test_without_people_nobody_has_their_key(build_file: BuildFile) -> None:
    built = build_file()

    assert built.config.participants == ()
    assert "expert" not in built.deployment.keys


def test_the_reference_is_in_view_where_asked(build_file: BuildFile) -> None:
    built = build_file("teacher.reference=true", "data.reference=answer")

    assert isinstance(built.config.context, ReferenceInView)
    assert built.config.problems(0)[0].payload["answer"]


def test_several_sources_have_their_own_options_weights_and_rule(build_file: BuildFile) -> None:
    built = build_file(
        "feedback.sources.size={use = 'regex', options = {pattern = '.'}, weight = 0.5}",
        "feedback.reward=mean",
    )

    assert built.config.task == CombinedTask(
        sources=("judge", "size"), weights=(1.0, 0.5), rule="mean"
    )
    assert built.deployment.sources["size"].options["options"] == {"pattern": "."}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["feedback.use=judge.py:judg"], "defines no function 'judg'; did you mean `judge`?"),
        (["feedback.use=judge.py"], "names no function; write judge.py:NAME"),
        (["feedback.use=none.py:judge"], "none.py: there is no such file"),
        (["feedback.use=exat"], "'exat' is no verifier; did you mean `exact`?"),
        (["feedback.use=[]"], "the self-teacher would see no more than the student"),
        (["feedback.use=[]", "objective.use=grpo"], "grpo learns from rewards"),
        (["objective.use=sft"], "data.reference: is missing"),
        (["objective.use=opsd"], "data.reference: is missing"),
        (["data.train=no.jsonl"], "no.jsonl: there is no such file"),
        (["data.eval=train.jsonl"], "12 training rows are held out too"),
        (["model.path=judge.py"], "has no config.json"),
        (["optim.prompts_per_step=20"], "there are only 12 training rows"),
        (["rollout.max_tokens=600"], "leaves no prompt in a context of 512 tokens"),
        (["data.max_prompt=3"], "the prompts of all 12 rows have more than 3 tokens"),
        (["rollout.n=1", "objective.use=grpo"], "leaves no sibling to compare"),
        (["teacher.self.name=people", "teacher.people={}"], "two have one name"),
        (["teacher.people.select=[]"], "teacher.people.select"),
        (
            ["teacher.server={url = 'http://127.0.0.1:9', tokenizer = 'none'}"],
            "none has no tokenizer_config.json",
        ),
        (["run.eval_ks=[9]"], "pass@9 needs more than 4 samples"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    build_file: BuildFile, settings: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        build_file(*settings)


def test_prompts_beyond_the_limit_are_dropped_and_noted(
    build_file: BuildFile, folder: Path
) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "x" * 400}) + "\n")

    built = build_file("data.max_prompt=100")

    assert isinstance(built.config.problems, Epochs)
    assert len(built.config.problems.rows) == 12
    assert "train.jsonl: 1 of 13 rows are dropped" in built.notes[0]
    assert describe(built.config)["problems"]["rows"]["dropped"] == [built.notes[0]]


def test_without_held_out_rows_the_run_is_not_evaluated(build_file: BuildFile) -> None:
    text = '[data]\ntrain = "train.jsonl"\n[feedback]\nuse = "judge.py:judge"\n'

    built = build_file(text=text)
    shared = build_file("data.eval_share=0.25", text=text)

    assert built.config.evaluation is None
    assert "is not evaluated" in built.notes[0]
    assert shared.config.evaluation is not None
    assert len(shared.config.evaluation.problems) == 3


CRITERIA = "[{name = 'polite', question = 'Is it polite?'}]"


def test_a_language_model_as_a_judge_is_one_table(build_file: BuildFile, folder: Path) -> None:
    options = f"{{url = 'http://h:1', model = 'm', key_file = 'k.key', criteria = {CRITERIA}}}"

    built = build_file(f"feedback.sources.tone={{use = 'judge', options = {options}}}")

    service = built.deployment.sources["tone"]
    assert service.use == "preceptor_services.feedback.judge.source:Judge"
    assert service.options["name"] == "tone"
    assert service.options["key_file"] == str(folder / "k.key")
    assert "timeout_s" not in service.options
    assert parse_deployment(to_toml(built.deployment)) == built.deployment


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{model = 'm', criteria = []}", "the judge 'judge' has no option 'url'"),
        ("{url = 'u', model = 'm', criteria = []}", "criteria: is empty"),
        ("{url = 'u', model = 'm', criteria = 'polite'}", "criteria: is no list of tables"),
        (
            "{url = 'u', model = 'm', criteria = [{name = 'a'}]}",
            r"criteria\[0\]: has the keys name",
        ),
    ],
)
def test_a_judge_without_what_it_needs_is_refused(
    build_file: BuildFile, options: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        build_file("feedback.use=judge", f"feedback.options={options}")


def test_the_policy_as_its_own_judge_needs_no_service(build_file: BuildFile) -> None:
    options = f"{{criteria = {CRITERIA}}}"
    built = build_file(f"feedback.sources.self={{use = 'self', options = {options}}}")

    [own] = built.config.self_evaluations
    assert (own.name, [c.name for c in own.rubric.criteria]) == ("self", ["polite"])
    assert built.config.task.sources == ("judge", "self")
    assert set(built.deployment.sources) == {"judge"}


def test_texts_of_a_source_can_be_hidden_from_teachers(build_file: BuildFile) -> None:
    built = build_file(
        "feedback.sources.size={use = 'regex', expert_may_see = false}", "feedback.max_failed=0.5"
    )

    assert built.config.context == PapersContext(hidden_sources=("size",))
    assert built.config.max_failed == 0.5


def test_an_adapter_is_part_of_the_run(build_file: BuildFile) -> None:
    lora = build_file("model.lora.rank=4", "model.lora.targets=q_proj").config.lora

    assert lora == Lora(rank=4, targets=("q_proj",))
    assert build_file().config.lora is None


def test_an_adapter_for_a_layer_that_the_model_lacks_is_refused(build_file: BuildFile) -> None:
    with pytest.raises(ValueError, match=r"model\.lora\.targets: the model has no layer 'query'"):
        build_file("model.lora.targets=query")


def test_the_number_of_ranks_is_no_setting_that_a_run_goes_on_with(build_file: BuildFile) -> None:
    two = build_file("run.ranks=2").config

    assert two.ranks == 2
    assert describe(two) == describe(build_file().config)


def test_ranks_on_one_named_device_are_refused(build_file: BuildFile) -> None:
    with pytest.raises(ValueError, match=r"model\.device: 'cuda:1' is one device"):
        build_file("run.ranks=2", "model.device=cuda:1")


def test_more_ranks_than_gpus_are_refused(
    build_file: BuildFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert build_file("run.ranks=4", "model.device=cpu").config.ranks == 4
    with pytest.raises(ValueError, match=r"run\.ranks: 4 ranks need as many GPUs; torch sees 2"):
        build_file("run.ranks=4")


def test_rounded_versions_are_another_distribution_which_objectives_correct(
    build_file: BuildFile,
) -> None:
    def importance(*settings: str) -> object:
        objective = build_file(*settings).config.objective
        assert isinstance(objective, (DistIL, GRPO))
        return objective.importance

    assert importance() is None
    assert importance("model.publish=bfloat16") is not None
    # Here passes round too, or nobody but the trainer loads versions.
    assert importance("model.publish=bfloat16", "model.dtype=bfloat16") is None
    assert importance("model.publish=bfloat16", "objective.use=grpo") is None
