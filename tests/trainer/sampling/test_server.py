"""A sampler behind a server of vLLM's or SGLang's own; `model_servers.py` has stand-ins."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from preceptor_clients.contract.errors import AnswerRefused, ServiceFailed
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.sdk.adapters import FIRST_ADAPTER
from preceptor_clients.vllm_expert.broadcast_weights import received
from preceptor_clients.vllm_expert.fetched_weights import fetched
from preceptor_trainer.sampling.dialect import PROBE, Student, UnfitServer
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published, SampleRequest
from preceptor_trainer.sampling.server import SampledByServer, ServerKind, ServerSampler
from preceptor_trainer.sampling.vllm_weights import EXTENSION
from preceptor_trainer.sampling.weight_group import outline_of

from ...services.dispatcher.conftest import serving
from .model_servers import END, LOGPROB, PROBE_IDS, VLLM, SGLang

VERSION = "run/l0/3"


STUDENT = Student(
    vocab_size=10,
    num_rows=12,
    end_ids=frozenset({END, 8}),
    is_tied=True,
    probe_ids=PROBE_IDS,
)


def sampler_of(
    server: VLLM | SGLang, kind: ServerKind | None = None, **fields: Any
) -> ServerSampler:
    """Asks the stand-in without a network."""
    own: ServerKind = "vllm" if isinstance(server, VLLM) else "sglang"
    options = SampledByServer(**{"url": "http://server", "kind": kind or own} | fields)
    return ServerSampler(options, None, STUDENT, httpx.ASGITransport(server.app()))


def whole(version: str = VERSION, *, parent: str | None = "run/l0/2") -> Published:
    manifest = WeightManifest(
        version=version,
        parent=parent,
        uri=f"file:///runs/{version}",
        files={"model.safetensors": "a" * 64},
        vocab_fingerprint="ab" * 32,
    )
    return Published(version=version, tensors={}, manifest=manifest)


FIRST = whole("run/l0/0", parent=None)


def first_of(run: str, root: Path) -> Published:
    """The first version of a line of adapters, as a run writes it."""
    published = whole(f"{run}/l0/0", parent=None)
    assert published.manifest is not None
    folder = root / published.version
    (folder / FIRST_ADAPTER).mkdir(parents=True)
    manifest = published.manifest.model_copy(update={"uri": folder.as_uri()})
    return Published(version=published.version, tensors={}, manifest=manifest)


def adapter(version: str) -> Published:
    found = whole(version)
    assert found.manifest is not None
    manifest = found.manifest.model_copy(update={"base": FIRST.version})
    return Published(version=version, tensors={}, manifest=manifest, base=FIRST.manifest)


def request(num_prompts: int = 1, *, params: Any = None, **fields: Any) -> SampleRequest:
    return SampleRequest(
        prompts=[[1, number % 8] for number in range(num_prompts)],
        params=SamplingParams(max_new_tokens=4) if params is None else params,
        generator=torch.Generator().manual_seed(0),
        **fields,
    )


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_groups_come_in_the_order_of_the_prompts(make) -> None:
    seen: list[tuple[int, int]] = []

    sampler = sampler_of(make())
    await sampler.load(whole())
    groups = await sampler.sample(
        request(9, num_samples=3, on_finished=lambda g, i, _: seen.append((g, i)))
    )

    ids = [[one.response_ids.tolist() for one in group] for group in groups]
    assert ids == [[[number % 8, END]] * 3 for number in range(9)]
    assert sorted(seen) == [(g, i) for g in range(9) for i in range(3)]
    np.testing.assert_allclose(groups[0][0].logprobs, [LOGPROB] * 2)


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_a_forced_prefix_belongs_to_the_prompt_and_leads_the_response(make) -> None:
    sampler = sampler_of(make())
    await sampler.load(whole())
    [[one], [two]] = await sampler.sample(request(2, forced_prefixes=[[5, 6], []]))

    assert (one.response_ids.tolist(), one.num_forced) == ([5, 6, 6, END], 2)
    assert np.isnan(one.logprobs).tolist() == [True, True, False, False]
    assert (two.response_ids.tolist(), two.num_forced) == ([1, END], 0)


async def test_vllm_is_asked_for_the_students_distribution_and_not_for_its_defaults() -> None:
    server = VLLM()

    sampler = sampler_of(server)
    await sampler.load(whole())
    await sampler.sample(request(num_samples=2))

    body = server.bodies("/v1/completions")[-1]
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
    assert body.items() >= (neutral | {"n": 2, "ignore_eos": True, "temperature": 1.0}).items()
    assert body["stop_token_ids"] == [8, END]
    assert body["logit_bias"] == {"10": -100.0, "11": -100.0}  # rows that are no tokens


async def test_vllm_loads_each_whole_version_and_says_which_one_it_holds() -> None:
    server = VLLM()

    sampler = sampler_of(server)
    for version in ("run/l0/3", "run/l0/4"):
        await sampler.load(whole(version))

    assert server.weights == sampler.version == "run/l0/4"
    assert server.bodies("/collective_rpc") == [
        {"method": "take_weights", "args": [f"/runs/run/l0/{step}"]} for step in (3, 4)
    ]
    assert len(server.bodies("/reset_prefix_cache")) == 2


@pytest.fixture
def reached() -> Iterator[str]:
    """An address that the trainer's machine can connect to, as the stand-in's is not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("weights", "calls"),
    [
        ("sent", ["fetch_weights", "take_fetched", "drop_fetched"] * 2),
        ("broadcast", ["join_weight_group", "take_broadcast", "take_broadcast"]),
    ],
)
async def test_vllm_is_sent_each_version_that_has_no_files(
    reached: str, weights: str, calls: list[str]
) -> None:
    server = VLLM()
    sampler = sampler_of(server, url=reached, weights=weights)
    assert not await sampler.takes_adapters()  # it reads adapters from files

    for step in (1, 2):
        tensors = {
            "turned": torch.arange(6.0).reshape(2, 3).T * step,
            "bfloat": torch.full((2, 3), float(step)).bfloat16(),
            "scalar": torch.tensor(float(step)),
        }
        await sampler.load(Published(version=f"run/l0/{step}", tensors=tensors))

        assert server.weights == sampler.version == f"run/l0/{step}"
        assert server.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert server.tensors[name].dtype == tensor.dtype
            assert torch.equal(server.tensors[name], tensor), name
    [[one]] = await sampler.sample(request())
    assert one.response_ids.tolist() == [0, END]
    assert [body["method"] for body in server.bodies("/collective_rpc")] == calls
    assert len(server.bodies("/reset_prefix_cache")) == 2


@pytest.mark.parametrize(
    ("weights", "fault", "message"),
    [
        ("sent", "reaches", r"did not load run/l0/1: .*refused.* must reach 127\.0\.0\.1:\d+,"),
        ("sent", "loads", r"did not load run/l0/1: size mismatch"),
        ("broadcast", "reaches", r"did not load run/l0/1: .*refused.* must reach 127\.0\.0\.1 on"),
        ("broadcast", "loads", r"did not load run/l0/1: size mismatch.* parts of two versions"),
    ],
)
async def test_weights_that_are_not_loaded_are_not_named_and_can_be_sent_again(
    reached: str, weights: str, fault: str, message: str
) -> None:
    server = VLLM(**{fault: False})
    sampler = sampler_of(server, url=reached, weights=weights)
    published = Published(version="run/l0/1", tensors={name: torch.ones(1 << 20) for name in "abc"})

    with pytest.raises(ServiceFailed, match=message):
        await sampler.load(published)

    assert server.weights == "default"
    assert not server.tensors
    setattr(server, fault, True)
    await sampler.load(published)
    assert server.weights == "run/l0/1"
    assert server.tensors.keys() == {*"abc"}


async def test_a_server_that_was_started_again_must_be_met_again(reached: str) -> None:
    server = VLLM()
    sampler = sampler_of(server, url=reached, weights="broadcast")
    first, second = (
        Published(version=f"run/l0/{step}", tensors={"a": torch.zeros(8 << 20)}) for step in (1, 2)
    )
    await sampler.load(first)
    server.group = None

    with pytest.raises(
        ServiceFailed, match=r"did not load run/l0/2: has not joined\. .* start it again"
    ):
        await sampler.load(second)
    await sampler.load(second)

    assert server.weights == "run/l0/2"


async def test_a_run_that_ends_while_weights_are_broadcast_sends_no_more(reached: str) -> None:
    server = VLLM()
    sampler = sampler_of(server, url=reached, weights="broadcast")
    await sampler.load(Published(version="run/l0/1", tensors={"a": torch.zeros(1)}))
    group = sampler._dialect._weights._group
    tensors = {str(number): torch.zeros(1 << 20) for number in range(3)}

    async def until_ended() -> None:
        await asyncio.sleep(60)

    sending = asyncio.create_task(group.together(until_ended(), partial(group.send, tensors)))
    incoming = received(server.group, outline_of(tensors))
    await asyncio.to_thread(next, incoming)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    server.group = None
    incoming.close()  # the workers' connection goes, so that the thread ends

    with pytest.raises(RuntimeError, match="nobody waits"):
        group.send(tensors)


async def test_weights_that_could_not_be_loaded_leave_no_file(reached: str) -> None:
    server = VLLM(loads=False)

    with pytest.raises(ServiceFailed):
        await sampler_of(server, url=reached, weights="sent").load(whole())

    last = server.bodies("/collective_rpc")[-1]
    assert last["method"] == "drop_fetched"
    with pytest.raises(FileNotFoundError):
        fetched(*last["args"])


@pytest.mark.parametrize("weights", ["sent", "broadcast"])
async def test_a_server_whose_workers_take_nothing_is_sent_no_weights(weights: str) -> None:
    sampler = sampler_of(VLLM(extension=None, device="cuda"), weights=weights)

    with pytest.raises(UnfitServer, match=rf"sampler\.weights: .*-cls {EXTENSION}"):
        await sampler.load(Published(version="run/l0/1", tensors={}))


async def test_vllm_on_a_gpu_reloads_without_our_extension() -> None:
    server = VLLM(extension=None, device="cuda")

    sampler = sampler_of(server)
    await sampler.load(whole())

    [body] = server.bodies("/collective_rpc")
    assert body == {"method": "reload_weights", "kwargs": {"weights_path": f"/runs/{VERSION}"}}


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (VLLM(dev=False), "VLLM_SERVER_DEV_MODE=1"),
        (VLLM(names_weights=False), r"takes no new weights.*0\.32 or newer"),
        (VLLM(extension=None), f"--worker-extension-cls {EXTENSION}"),
        (VLLM(only=-9.0), r"gives -9 as the log-prob.*--logprobs-mode processed_logprobs"),
        (VLLM(only=9.0), r"gives 9 as the log-prob.*--logprobs-mode processed_logprobs"),  # a logit
        (VLLM(probe_ids=(7,)), r"another tokenizer.*\[7\] there and \[3, 4, 5\]"),
        (SGLang(probe_ids=(7,)), "another tokenizer"),
    ],
)
async def test_a_server_that_cannot_be_the_sampler_is_refused_with_how_to_start_it(
    server, message
) -> None:
    sampler = sampler_of(server)
    with pytest.raises(UnfitServer, match=message):
        await sampler.load(whole())


async def test_a_server_of_another_kind_is_refused() -> None:
    with pytest.raises(UnfitServer, match="there is no vLLM server at http"):
        await sampler_of(SGLang(), "vllm").load(whole())
    with pytest.raises(UnfitServer, match="there is no SGLang server at http"):
        await sampler_of(VLLM(), "sglang").load(whole())


@pytest.mark.parametrize(
    ("server", "params", "message"),
    [
        (SGLang(), {"top_p": 0.9}, "rollout.top_p"),
        (SGLang(), {"top_k": 5}, "rollout.top_k"),
        (SGLang(tempered=False), {"temperature": 0.5}, "SGLANG_RETURN_ORIGINAL_LOGPROB"),
    ],
)
async def test_log_probs_of_another_distribution_than_the_drawn_one_are_refused(
    server, params, message
) -> None:
    sampler = sampler_of(server)
    await sampler.load(whole())
    with pytest.raises(UnfitServer, match=message):
        await sampler.sample(request(params=SamplingParams(max_new_tokens=4, **params)))


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_a_server_that_another_run_gave_its_weights_is_refused(make) -> None:
    server = make()

    sampler = sampler_of(server)
    await sampler.load(whole())
    server.weights = "other/l0/9"
    with pytest.raises(ServiceFailed, match=f"holds the weights other/l0/9.*{VERSION}"):
        await sampler.sample(request())


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_weights_that_change_while_a_response_is_drawn_are_noticed(make) -> None:
    sampler = sampler_of(make(taken_by="other/l0/9"))
    await sampler.load(whole())

    with pytest.raises(ServiceFailed, match="holds the weights other/l0/9"):
        await sampler.sample(request())


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_an_adapter_is_asked_for_by_its_version_and_the_last_one_is_dropped(make) -> None:
    server = make(lora=True)

    sampler = sampler_of(server)
    assert await sampler.takes_adapters()
    await sampler.load(FIRST)  # what the server was started with
    await sampler.sample(request())
    for version in ("run/l0/1", "run/l0/2"):
        await sampler.load(adapter(version))
    await sampler.sample(request())

    assert server.adapters == {"run/l0/2": "/runs/run/l0/2"}
    assert server.weights == "default"
    path, field = ("/v1/completions", "model") if make is VLLM else ("/generate", "lora_path")
    first = "base" if make is VLLM else None
    drawn = [b for b in server.bodies(path) if "allowed_token_ids" not in b]
    assert [body.get(field) for body in drawn] == [first, "run/l0/2"]


async def test_an_adapter_of_the_same_name_from_another_run_is_noticed() -> None:
    server = VLLM(lora=True)
    sampler = sampler_of(server)
    await sampler.takes_adapters()
    await sampler.load(adapter("run/l0/1"))
    server.adapters["run/l0/1"] = "/another/run/l0/1"

    with pytest.raises(ServiceFailed, match=r"holds the adapters .*/another/run.* to itself"):
        await sampler.sample(request())


async def test_adapters_that_another_run_left_behind_are_dropped() -> None:
    server = VLLM(lora=True, adapters={"other/l0/7": "/other"})
    sampler = sampler_of(server)
    await sampler.takes_adapters()

    await sampler.load(FIRST)

    assert server.adapters == {}
    assert await sampler.sample(request())


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_runs_that_share_a_server_draw_each_from_its_own_adapters(make, tmp_path) -> None:
    server = make(lora=True)
    samplers = [sampler_of(server, shared=True) for _ in range(2)]
    for sampler, run in zip(samplers, ("one", "two"), strict=True):
        assert await sampler.takes_adapters()
        await sampler.load(first_of(run, tmp_path))
        await sampler.sample(request())
    for step in (1, 2):
        for sampler, run in zip(samplers, ("one", "two"), strict=True):
            await sampler.load(adapter(f"{run}/l0/{step}"))
    for sampler in samplers:
        await sampler.sample(request())

    assert server.adapters.keys() == {"one/l0/2", "two/l0/2"}
    path, field = ("/v1/completions", "model") if make is VLLM else ("/generate", "lora_path")
    drawn = [b[field] for b in server.bodies(path) if b.get(field) and "/" in b[field]]
    begun = ["one/l0/0", "two/l0/0"] if make is VLLM else []
    assert drawn == [*begun, "one/l0/2", "two/l0/2"]


async def test_runs_of_one_name_that_share_a_server_are_told_to_take_two(tmp_path) -> None:
    server = VLLM(lora=True)
    sampler = sampler_of(server, shared=True)
    await sampler.takes_adapters()
    await sampler.load(first_of("run", tmp_path))
    server.adapters["run/l0/5"] = "/another/run/l0/5"

    with pytest.raises(ServiceFailed, match=r"another/run.*need a `run.name` of their own each"):
        await sampler.sample(request())


@pytest.mark.parametrize("message", ["started again, or a run without", "holds the weights o/l0/1"])
async def test_a_server_that_lost_an_adapter_or_has_other_weights_says_so(
    message, tmp_path
) -> None:
    server = VLLM(lora=True)
    sampler = sampler_of(server, shared=True)
    await sampler.takes_adapters()
    await sampler.load(first_of("run", tmp_path))
    if "weights" in message:
        server.weights = "o/l0/1"
    else:
        server.adapters.clear()

    with pytest.raises(ServiceFailed, match=message):
        await sampler.sample(request())


async def test_an_adapter_that_is_no_version_of_the_run_is_left_alone(tmp_path) -> None:
    others = {"run": "/others", "run/mine": "/others", "runner/l0/1": "/others"}
    server = VLLM(lora=True, adapters=dict(others))
    sampler = sampler_of(server, shared=True)
    await sampler.takes_adapters()

    await sampler.load(first_of("run", tmp_path))
    await sampler.load(adapter("run/l0/1"))

    assert server.adapters == others | {"run/l0/1": "/runs/run/l0/1"}
    assert await sampler.sample(request())


async def test_a_run_that_goes_on_loads_its_adapter_anew_and_has_old_prompts_forgotten() -> None:
    server = VLLM(lora=True, adapters={"run/l0/1": "/runs/run/l0/1"})
    sampler = sampler_of(server, shared=True)
    await sampler.takes_adapters()

    for version in ("run/l0/1", "run/l0/2"):
        await sampler.load(adapter(version))

    assert server.adapters == {"run/l0/2": "/runs/run/l0/2"}
    assert len(server.bodies("/reset_prefix_cache")) == 1
    assert not any("load_inplace" in body for body in server.bodies("/v1/load_lora_adapter"))


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_a_whole_version_does_not_go_to_a_server_that_others_share(make) -> None:
    server = make(lora=False)
    sampler = sampler_of(server, shared=True)
    await sampler.takes_adapters()
    with pytest.raises(UnfitServer, match=r"sampler\.shared: run/l0/0 is a whole version"):
        await sampler.load(FIRST)
    assert server.weights == "default"


async def test_a_line_without_a_first_adapter_is_not_drawn_beside_others() -> None:
    server = VLLM(lora=True, adapters={"other/l0/7": "/other"})
    sampler = sampler_of(server, shared=True)
    await sampler.takes_adapters()
    with pytest.raises(UnfitServer, match=r"/runs/run/l0/0 has no folder 'adapter'"):
        await sampler.load(FIRST)
    assert server.adapters == {"other/l0/7": "/other"}


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_an_adapter_is_not_put_on_the_weights_of_another_run(make) -> None:
    sampler = sampler_of(make(lora=True, weights="other/l0/9"))
    await sampler.takes_adapters()
    with pytest.raises(UnfitServer, match="holds the weights other/l0/9 of another run"):
        await sampler.load(FIRST)


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_a_server_without_adapters_gets_whole_versions(make) -> None:
    server = make(lora=False)

    sampler = sampler_of(server)
    assert not await sampler.takes_adapters()
    await sampler.load(FIRST)

    assert server.weights == FIRST.version


async def test_a_folder_that_the_server_does_not_see_is_named() -> None:
    sampler = sampler_of(SGLang())
    with pytest.raises(ServiceFailed, match=r"no such folder\. It must see the folder /runs/mis"):
        await sampler.load(whole("missing/l0/1"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response": (1, 2), "reason": "length"}, "'length' after 2 of 4 tokens"),
        ({"response": (1, 2), "reason": "stop"}, "'stop' after the token 2"),
        ({"response": (10, END)}, r"ids outside \[0, 10\)"),
        ({"response": (1,) * 5, "reason": "length"}, "has 5 of 1 to 4 tokens"),
    ],
)
@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_a_response_that_the_policy_did_not_write_is_refused(make, fields, message) -> None:
    sampler = sampler_of(make(**fields))
    await sampler.load(whole())
    with pytest.raises(AnswerRefused, match=message):
        await sampler.sample(request())


@pytest.mark.parametrize("make", [VLLM, SGLang])
async def test_a_server_sleeps_until_it_is_woken(make) -> None:
    server = make()
    sampler = sampler_of(server, sleeps=True)
    await sampler.load(whole())

    await sampler.sleep()
    slept = server.is_asleep
    await sampler.wake()
    await sampler.wake()  # nothing happens where it is awake

    assert (sampler.sleeps, slept, server.is_asleep) == (True, True, False)
    assert await sampler.sample(request())


async def test_a_server_that_an_earlier_run_left_asleep_is_woken_before_it_is_asked() -> None:
    sampler = sampler_of(VLLM(is_asleep=True), sleeps=True)

    await sampler.load(whole())

    assert await sampler.sample(request())


async def test_a_server_that_does_not_wake_ends_the_run_with_what_to_do() -> None:
    server = VLLM()
    sampler = sampler_of(server, sleeps=True)
    await sampler.load(whole())
    server.wakes = False
    await sampler.sleep()

    with pytest.raises(ServiceFailed, match="did not wake; start it again"):
        await sampler.wake()


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (VLLM(sleepless=True, device="cuda"), "--enable-sleep-mode"),
        (VLLM(dev=False, lora=True), "VLLM_SERVER_DEV_MODE=1"),
        (SGLang(sleepless=True), "no memory saver; start it with --enable-memory-saver"),
    ],
)
async def test_a_server_that_cannot_sleep_is_refused_with_how_to_start_it(server, message) -> None:
    sampler = sampler_of(server, sleeps=True)

    with pytest.raises(UnfitServer, match=rf"rollout\.sampler\.sleeps: .*{message}"):
        await sampler.load(whole())


async def test_it_is_made_of_the_policy_and_asks_over_http(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    config = SimpleNamespace(vocab_size=12, tie_word_embeddings=True)
    policy = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)),
        vocab_size=10,
        end_ids={END, 8},
        response_ids=lambda text: [*PROBE_IDS, END] if text == PROBE else [],
    )

    async with serving(VLLM().app()) as url:
        options = SampledByServer(url=f"{url}/v1", kind="vllm", key_file=tmp_path / "key")
        sampler = options(policy)
        await sampler.load(whole())
        [[one]] = await sampler.sample(request())

    assert one.response_ids.tolist() == [0, END]
