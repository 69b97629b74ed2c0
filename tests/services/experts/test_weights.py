"""Claims about versions, averages and their restoring."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import Conflict, Invalid, ServiceFailed, WeightsNotHere
from preceptor_clients.contract.schemas import (
    PrefixAnswer,
    PrefixQuery,
    WantedWeights,
    WeightManifest,
    WeightsOffer,
)
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_trainer.learner.adapter_files import read_weights
from preceptor_trainer.learner.policy import WeightFolder

from .conftest import TinyPolicy

GATE = "model.layers.1.mlp.gate_proj.weight"
MakeTeacher = Callable[..., SelfTeacher]
MakeQuery = Callable[..., PrefixQuery]


def exactly(version: str) -> WantedWeights:
    return WantedWeights(mode="exact", version=version)


def tensors(manifest: WeightManifest) -> dict[str, torch.Tensor]:
    return load_file(Path(manifest.uri.removeprefix("file://")) / "model.safetensors")


def line(policy: TinyPolicy, steps: int, checkpoints: tuple[int, ...] = ()) -> list[WeightManifest]:
    return [
        policy.publish(
            step, parent=f"p/l0/{step - 1}" if step else None, checkpoint=step in checkpoints
        )
        for step in range(steps)
    ]


async def offer(teacher: SelfTeacher, *manifests: WeightManifest) -> None:
    await teacher.offer_weights(WeightsOffer(manifests=manifests))


async def answer_bytes(teacher: SelfTeacher, query: PrefixQuery) -> bytes:
    [reply] = await teacher.logprobs([query], [])
    assert isinstance(reply, PrefixAnswer), reply
    return wire.render(reply)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6)


async def test_the_average_of_three_versions_is_its_closed_form(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=0.25)
    manifests = line(policy, 3)

    await offer(teacher, *manifests)

    w = [tensors(m) for m in manifests]
    expected = {n: 0.5625 * w[0][n] + 0.1875 * w[1][n] + 0.25 * w[2][n] for n in w[0]}
    assert_same(teacher._averages.state("p/l0/0"), w[0])
    assert_same(teacher._averages.state("p/l0/2"), expected)


async def test_an_answer_comes_from_the_average_and_names_the_version(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=0.5)
    first, second = line(policy, 2)
    await offer(teacher, first, second)

    query = make_query(weights=exactly("p/l0/1"))
    [reply] = await teacher.logprobs([query], [])

    assert isinstance(reply, PrefixAnswer)
    assert reply.weights_before == reply.weights_after == "p/l0/1"
    model = policy.model()
    averaged = {n: (tensors(first)[n] + tensors(second)[n]) / 2 for n in tensors(first)}
    model.load_state_dict(averaged, strict=False)
    context = teacher._context(query)
    ids = torch.tensor([[*context.ids.tolist(), *query.response_ids.tolist()]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)[len(context.ids) - 1 : -1]
    own = logprobs.gather(1, torch.tensor(query.response_ids)[:, None].long())[:, 0]
    np.testing.assert_allclose(reply.own_logprobs_P, own.numpy(), atol=1e-5)


async def test_without_wanted_weights_the_initial_model_answers_even_after_others(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    before = await answer_bytes(teacher, make_query())
    await offer(teacher, policy.publish(0))

    versioned = await answer_bytes(teacher, make_query(weights=exactly("p/l0/0")))
    after = await answer_bytes(teacher, make_query())

    assert before == after != versioned


async def test_one_call_may_want_several_versions(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=1.0)
    await offer(teacher, *line(policy, 2))
    queries = [make_query(weights=exactly(f"p/l0/{step}")) for step in (1, 0, 1)]

    replies = await teacher.logprobs(queries, [])

    assert all(isinstance(r, PrefixAnswer) for r in replies)
    assert [r.weights_before for r in replies] == ["p/l0/1", "p/l0/0", "p/l0/1"]  # type: ignore[union-attr]
    np.testing.assert_allclose(
        replies[0].logprobs_PK,  # type: ignore[union-attr]
        replies[2].logprobs_PK,  # type: ignore[union-attr]
        atol=1e-6,
    )


async def test_an_unknown_version_fails_the_whole_call_by_name(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    await offer(teacher, policy.publish(0))

    with pytest.raises(WeightsNotHere, match="p/l0/7") as caught:
        await teacher.logprobs([make_query(), make_query(weights=exactly("p/l0/7"))], [])

    assert caught.value.status == 425


async def test_a_version_whose_ancestor_was_never_offered_is_not_here(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    manifests = line(policy, 3)
    await offer(teacher, manifests[2])

    with pytest.raises(WeightsNotHere, match="p/l0/1"):
        await teacher.logprobs([make_query(weights=exactly("p/l0/2"))], [])

    await offer(teacher, *manifests)
    assert await answer_bytes(teacher, make_query(weights=exactly("p/l0/2")))


@pytest.mark.parametrize("kept", [1, 4])
async def test_a_restarted_teacher_answers_with_the_bits_of_one_that_never_stopped(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy, kept: int
) -> None:
    steady = make_teacher(versions_kept=kept)
    manifests = line(policy, 6, checkpoints=(0, 3))
    for manifest in manifests:
        await offer(steady, manifest)
    wanted = make_query(weights=exactly("p/l0/5"))
    expected = await answer_bytes(steady, wanted)
    for step in (0, 1, 2):  # what a trainer lets go of
        (policy.weights_root / f"p/l0/{step}/model.safetensors").unlink()

    restarted = make_teacher(versions_kept=kept)
    await offer(restarted, *manifests)

    assert await answer_bytes(restarted, wanted) == expected


async def test_a_new_lineage_continues_the_average_of_its_checkpoint(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=0.5)
    manifests = line(policy, 3, checkpoints=(1,))
    await offer(teacher, *manifests)
    branch = policy.publish(2, lineage="l1", parent="p/l0/1")

    await offer(teacher, branch)

    parent, own = teacher._averages.state("p/l0/1"), tensors(branch)
    assert_same(teacher._averages.state("p/l1/2"), {n: (parent[n] + own[n]) / 2 for n in own})


@pytest.mark.parametrize("damage", ["cut", "other"])
async def test_a_stored_average_that_is_damaged_is_replayed_instead(
    make_teacher: MakeTeacher,
    make_query: MakeQuery,
    policy: TinyPolicy,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifests = line(policy, 3, checkpoints=(1,))
    first = make_teacher()
    await offer(first, *manifests)
    wanted = make_query(weights=exactly("p/l0/2"))
    expected = await answer_bytes(first, wanted)
    [stored] = policy.weights_root.glob("p/l0/ema-*/1.safetensors")
    content = stored.read_bytes()
    stored.write_bytes(content[:-8] if damage == "cut" else content[:-1] + b"\x00")

    restarted = make_teacher()
    await offer(restarted, *manifests)

    assert await answer_bytes(restarted, wanted) == expected
    assert "recomputed" in caplog.text


async def test_a_version_that_becomes_a_checkpoint_later_is_stored_then(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    manifest = policy.publish(0)
    await offer(teacher, manifest)
    assert not list(policy.weights_root.glob("p/l0/ema-*"))

    await offer(teacher, manifest.model_copy(update={"checkpoint": True}))

    assert len(list(policy.weights_root.glob("p/l0/ema-*/0.safetensors"))) == 1


async def test_rate_one_is_the_live_policy_and_needs_no_ancestors(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=1.0)
    manifest = policy.publish(9, parent="p/l0/8")

    await offer(teacher, manifest)

    assert_same(teacher._averages.state("p/l0/9"), tensors(manifest))


async def test_rate_zero_stays_the_initial_model(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=0.0)
    await offer(teacher, policy.publish(9, parent="p/l0/8"))

    initial, versioned = await teacher.logprobs(
        [make_query(), make_query(weights=exactly("p/l0/9"))], []
    )

    assert isinstance(initial, PrefixAnswer)
    assert isinstance(versioned, PrefixAnswer)
    assert versioned.weights_before == "p/l0/9"
    np.testing.assert_array_equal(initial.logprobs_PK, versioned.logprobs_PK)


async def test_latest_and_at_least_mean_the_newest_version_that_fits(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    await offer(teacher, *line(policy, 3))
    wants = [
        WantedWeights(mode="latest", policy="p"),
        WantedWeights(mode="at_least", version="p/l0/1"),
    ]

    replies = await teacher.logprobs([make_query(weights=w) for w in wants], [])

    assert {r.weights_before for r in replies} == {"p/l0/2"}  # type: ignore[union-attr]
    with pytest.raises(WeightsNotHere):
        await teacher.logprobs(
            [make_query(weights=WantedWeights(mode="at_least", version="p/l0/3"))], []
        )


async def test_bytes_that_differ_from_the_manifest_are_refused(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    manifest = policy.publish(0)
    file = policy.weights_root / "p/l0/0/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")

    with pytest.raises(ServiceFailed, match="SHA-256"):
        await offer(teacher, manifest)
    with pytest.raises(ServiceFailed, match="SHA-256"):
        await teacher.logprobs([make_query(weights=exactly("p/l0/0"))], [])


async def test_an_immutable_version_cannot_be_offered_with_other_files(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    manifest = policy.publish(0)
    await offer(teacher, manifest)

    with pytest.raises(Conflict, match="p/l0/0"):
        await offer(teacher, manifest.model_copy(update={"files": {"model.safetensors": "0" * 64}}))


@pytest.mark.parametrize(
    "uri",
    ["https://host/w", "file://host/w", "file:w", "{root}/../outside", "{root}/link", "file:///"],
)
async def test_an_address_outside_the_allowed_roots_is_refused(
    make_teacher: MakeTeacher, policy: TinyPolicy, tmp_path: Path, uri: str
) -> None:
    teacher = make_teacher()
    manifest = policy.publish(0)
    (tmp_path / "outside").mkdir()
    (policy.weights_root / "link").symlink_to(tmp_path / "outside")
    uri = uri.format(root=policy.weights_root.as_uri())

    with pytest.raises(Invalid) as caught:
        await offer(teacher, manifest.model_copy(update={"uri": uri}))

    assert caught.value.errors[0].field == "manifests[0].uri"


async def test_a_weights_file_that_is_a_symbolic_link_is_not_followed(
    make_teacher: MakeTeacher, policy: TinyPolicy, tmp_path: Path, make_query: MakeQuery
) -> None:
    teacher = make_teacher()
    manifest = policy.publish(0)
    file = policy.weights_root / "p/l0/0/model.safetensors"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    await offer(teacher, manifest)

    with pytest.raises(WeightsNotHere, match="cannot be read"):
        await teacher.logprobs([make_query(weights=exactly("p/l0/0"))], [])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vocab_fingerprint": "0" * 64}, "manifests[0].vocab_fingerprint"),
        ({"files": {"../model.safetensors": "0" * 64}}, "manifests[0].files"),
    ],
)
async def test_a_manifest_that_cannot_be_meant_is_refused_by_field(
    make_teacher: MakeTeacher, policy: TinyPolicy, change: dict[str, Any], field: str
) -> None:
    manifest = policy.publish(0)

    with pytest.raises(Invalid) as caught:
        await offer(make_teacher(), manifest.model_copy(update=change))

    assert caught.value.errors[0].field == field


async def test_weights_of_another_shape_are_refused_and_the_old_ones_stay(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    before = await answer_bytes(teacher, make_query())
    good = policy.publish(0)
    wrong = tensors(good)
    wrong["model.norm.weight"] = wrong["model.norm.weight"][:-1].clone()
    other = policy_with(policy, wrong)
    await offer(teacher, other)

    with pytest.raises(ServiceFailed, match=r"model\.norm\.weight"):
        await teacher.logprobs([make_query(weights=exactly(other.version))], [])

    assert await answer_bytes(teacher, make_query()) == before


def policy_with(policy: TinyPolicy, values: dict[str, torch.Tensor]) -> WeightManifest:
    folder = policy.weights_root / "p" / "odd" / "0"
    folder.mkdir(parents=True)
    save_file(values, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    return WeightManifest(
        version="p/odd/0",
        uri=folder.as_uri(),
        files={"model.safetensors": hashlib.sha256(content).hexdigest()},
        vocab_fingerprint=policy.vocab_fingerprint,
    )


def adapted(policy: TinyPolicy, steps: int) -> list[WeightManifest]:
    """A whole version, and adapters of it."""
    later = (policy.publish_adapter(step, base="p/l0/0") for step in range(1, steps))
    return [policy.publish(0), *later]


async def test_averages_of_adapters_are_those_of_the_whole_weights(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=0.25)
    manifests = adapted(policy, 3)

    await offer(teacher, *manifests)

    w = [read_weights(policy.weights_root / m.version) for m in manifests]
    expected = {n: 0.5625 * w[0][n] + 0.1875 * w[1][n] + 0.25 * w[2][n] for n in w[0]}
    assert_same(teacher._averages.state("p/l0/2"), expected)
    assert not torch.equal(w[0][GATE], w[2][GATE])
    assert max(m.num_bytes for m in manifests[1:] if m.num_bytes) < 2500


async def test_a_base_with_the_models_own_weights_takes_no_memory(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=0.25)
    folder = WeightFolder(policy.weights_root, "p", policy.vocab_fingerprint)
    own = {name: p.detach() for name, p in policy.model().named_parameters()}
    base = folder.write(own, "p/l0/0", parent=None, checkpoint=False)

    await offer(teacher, base, policy.publish_adapter(1, base="p/l0/0"))

    state, initial = teacher._averages.state("p/l0/1"), teacher._model.initial
    assert {name for name in own if state[name] is not initial[name]} == {GATE}


@pytest.mark.parametrize("base", ["p/l0/7", "p/l0/1"])
async def test_an_adapter_without_its_whole_base_is_refused(
    make_teacher: MakeTeacher, policy: TinyPolicy, base: str
) -> None:
    teacher = make_teacher()
    await offer(teacher, *adapted(policy, 2))

    with pytest.raises(Invalid, match="not offered before as a whole version") as refused:
        await offer(teacher, policy.publish_adapter(2, base=base))

    assert refused.value.errors[0].field == "manifests[0].base"


async def test_an_adapter_with_other_bytes_is_refused(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher(ema_rate=1.0)
    base, changed = adapted(policy, 2)
    config = policy.weights_root / changed.version / "adapter_config.json"
    config.write_text(config.read_text().replace("4.0", "40.0"))

    with pytest.raises(ServiceFailed, match=r"adapter_config\.json does not have the SHA-256"):
        await offer(teacher, base, changed)
