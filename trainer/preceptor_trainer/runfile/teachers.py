"""The teachers of a file: the services that are asked, with which weight, and what is in view."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from preceptor_clients.contract.deployment import DeployedService, local_service
from preceptor_trainer.collect.context import ContextPolicy, NothingInView, PapersContext
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.collect.people.people import PeopleConfig
from preceptor_trainer.collect.people.selection import (
    AnyOf,
    Disagreement,
    Failed,
    RandomShare,
    Selection,
    Uncertainty,
)
from preceptor_trainer.deployment.local import SELF_TEACHER
from preceptor_trainer.learner.policy import passing_folder
from preceptor_trainer.recipes.references import ReferenceInView
from preceptor_trainer.runfile.schema import (
    ModelTeacherSection,
    PeopleSection,
    RunFile,
    SelfTeacherSection,
    ServerTeacherSection,
    TeacherSection,
)
from preceptor_trainer.runfile.students import model_folder, scratch_folder

LARGER_MODEL: Final = "preceptor_services.experts.larger_model:LargerModel"
PEOPLE: Final = "preceptor_services.corrections.people_expert:PeopleExpert"
ALIGNING: Final = "preceptor_services.experts.remote.aligned.aligning:Aligning"
OPENAI_SERVER: Final = "preceptor_services.experts.remote.scoring.openai_http:OpenAIServer"


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """Who is asked, and what each may see."""

    uses: tuple[ExpertUse, ...] = ()
    services: dict[str, DeployedService] = field(default_factory=dict[str, DeployedService])
    context: ContextPolicy = field(default_factory=NothingInView)
    people: PeopleConfig | None = None


def make_teachers(
    run_file: RunFile, model: Path, folder: Path, run_dir: Path, *, in_view: bool
) -> Teachers:
    """The teachers that a file names; the self-teacher where it names none.

    Args:
        run_file: The whole file.
        model: Folder of the student.
        folder: What relative paths are relative to.
        run_dir: Folder of the run, for the weights that the self-teacher may load.
        in_view: Whether the reference is in view, for teachers that read anything.
    """
    teacher = run_file.teacher
    own = teacher.self
    if own is None and teacher.model is None and teacher.server is None:
        own = SelfTeacherSection()
    asked: list[tuple[ExpertUse, DeployedService]] = []
    if own is not None:
        scratch = scratch_folder(run_file, folder)
        asked.append(_self_teacher(run_file, own, model, run_dir, scratch))
    if teacher.model is not None:
        asked.append(_larger_model(run_file, teacher.model, folder))
    if teacher.server is not None:
        asked.append(_server(teacher.server, model, folder))
    named = [(use.name, service) for use, service in asked]
    people = None if teacher.people is None else _people(teacher.people)
    if teacher.people is not None and people is not None:
        # The file that the supervisor writes, with the ports that it chose.
        options = {"config": "resolved.toml", "model": str(model), **teacher.people.options}
        named.append((people.expert, local_service(people.expert, PEOPLE, options)))
    if len(dict(named)) < len(named):
        names = ", ".join(name for name, _ in named)
        raise ValueError(f"teacher: two have one name: {names}")
    return Teachers(
        uses=tuple(use for use, _ in asked),
        services=dict(named),
        context=_context(teacher, _hidden(run_file), in_view),
        people=people,
    )


def _people(asked: PeopleSection) -> PeopleConfig:
    rules: dict[str, Selection] = {
        "failed": Failed(),
        "disagreement": Disagreement(at_least=asked.disagreement),
        "uncertainty": Uncertainty(at_least=asked.uncertainty),
        "random": RandomShare(share=asked.share),
    }
    chosen = tuple(rules[name] for name in asked.select)
    return PeopleConfig(
        select=chosen[0] if len(chosen) == 1 else AnyOf(policies=chosen),
        round_steps=asked.round_steps,
        per_round=asked.per_round,
        double_share=asked.double_share,
        guidelines=asked.guidelines,
        per_step=asked.per_step,
        weight=asked.weight,
        takeover=asked.takeover,
        feedback=asked.feedback,
        forced=asked.forced,
    )


def _self_teacher(
    run_file: RunFile, own: SelfTeacherSection, model: Path, run_dir: Path, scratch: Path | None
) -> tuple[ExpertUse, DeployedService]:
    shipped = run_file.model.path is None
    kept = (run_dir / "weights").resolve()
    roots = [kept, *([] if scratch is None else [passing_folder(scratch, kept)])]
    options: dict[str, Any] = {
        "name": own.name,
        "model": str(model),
        "template": own.template or ("compact" if shipped else "papers"),
        "ema_rate": own.ema,
        "weights_roots": [str(root) for root in roots],
        "temperature": own.temperature,
        **_shared(run_file),
        **({} if own.trust_region is None else {"trust_region": own.trust_region}),
        **own.options,
    }
    use = ExpertUse(name=own.name, weight=own.weight, top_k=own.top_k, deadline_s=own.deadline_s)
    return use, local_service(own.name, SELF_TEACHER, options)


def _larger_model(
    run_file: RunFile, other: ModelTeacherSection, folder: Path
) -> tuple[ExpertUse, DeployedService]:
    options: dict[str, Any] = {
        "name": other.name,
        "model": str(model_folder(other.path, folder)),
        "template": other.template,
        "reads_feedback": other.reads_feedback,
        "temperature": other.temperature,
        **_shared(run_file),
        **other.options,
    }
    use = ExpertUse(
        name=other.name,
        weight=other.weight,
        top_k=other.top_k,
        needs_feedback=other.reads_feedback,
        deadline_s=other.deadline_s,
    )
    return use, local_service(other.name, LARGER_MODEL, options)


def _server(
    server: ServerTeacherSection, model: Path, folder: Path
) -> tuple[ExpertUse, DeployedService]:
    aligned = server.tokenizer
    options: dict[str, Any] = {
        "name": server.name,
        "url": server.url,
        "tokenizer": str(model),
        "template": server.template,
        "reads_feedback": server.reads_feedback,
        **({} if server.model is None else {"model": server.model}),
        **({} if server.key_file is None else {"key_file": str(folder / server.key_file)}),
        **({} if aligned is None else {"teacher_tokenizer": str(_tokenizer(aligned, folder))}),
        **server.options,
    }
    use = ExpertUse(
        name=server.name,
        weight=server.weight,
        top_k=server.top_k,
        needs_feedback=server.reads_feedback,
        scores_candidates=False,
        # Aligned entries need not name the student's own token.
        own_logprobs=aligned is None,
        deadline_s=server.deadline_s,
    )
    service = OPENAI_SERVER if aligned is None else ALIGNING
    return use, local_service(server.name, service, options)


def _tokenizer(path: Path, folder: Path) -> Path:
    found = (folder / Path(path).expanduser()).resolve()
    if not (found / "tokenizer_config.json").is_file():
        raise ValueError(f"teacher.server.tokenizer: {found} has no tokenizer_config.json")
    return found


def _hidden(run_file: RunFile) -> tuple[str, ...]:
    sources = run_file.feedback.sources.items()
    return tuple(name for name, source in sources if not source.expert_may_see)


def _shared(run_file: RunFile) -> dict[str, Any]:
    """Options of every teacher with a model on this machine."""
    variables = run_file.data.chat_template_kwargs
    return {
        "threads": run_file.run.threads,
        "device": run_file.model.device,
        **({"chat_template_kwargs": variables} if variables else {}),
    }


def _context(
    teacher: TeacherSection, hidden_sources: tuple[str, ...], in_view: bool
) -> ContextPolicy:
    if in_view:
        return ReferenceInView()
    return PapersContext(
        demonstrations=teacher.demonstrations,
        own_solution=teacher.own_solution,
        own_feedback=teacher.own_feedback,
        hidden_sources=hidden_sources,
    )
