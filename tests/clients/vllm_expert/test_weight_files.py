"""What vLLM loads of a version that is an adapter: the whole model that the trainer has."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from preceptor_clients.contract.errors import Invalid, ServiceFailed
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.sdk.adapters import AdapterConfig, tensor_names
from preceptor_clients.sdk.offered_weights import OfferedWeights
from preceptor_clients.vllm_expert.weight_files import write_weights
from preceptor_trainer.learner.adapter_files import read_weights
from preceptor_trainer.learner.lora import AdapterFiles
from preceptor_trainer.learner.policy import WeightFolder

VOCAB = "ab" * 32


def published(root: Path) -> tuple[WeightManifest, WeightManifest]:
    folder = WeightFolder(root, "p", VOCAB)
    base = {"q.weight": torch.randn(5, 3), "norm.weight": torch.randn(3)}
    whole = folder.write(base, "p/l0/0", parent=None, checkpoint=False)
    tensors = dict(zip(tensor_names("q"), (torch.randn(2, 3), torch.randn(5, 2)), strict=True))
    adapter = AdapterFiles(tensors=tensors, config=AdapterConfig(r=2, lora_alpha=4.0))
    changed = folder.write_adapter(
        adapter, "p/l0/1", base="p/l0/0", parent="p/l0/0", checkpoint=False
    )
    return whole, changed


def test_an_adapter_is_merged_with_its_base_and_a_whole_version_stays(tmp_path: Path) -> None:
    manifests = published(tmp_path / "root")
    offered = OfferedWeights([tmp_path / "root"], VOCAB, adapters=True)
    offered.offer(manifests)

    for manifest in manifests:
        write_weights(offered, manifest, tmp_path)

        found = load_file(tmp_path / "model.safetensors")
        wanted = read_weights(tmp_path / "root" / manifest.version)
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-7)


def test_a_service_without_adapters_takes_none_also_as_the_ancestor_of_a_whole_version(
    tmp_path: Path,
) -> None:
    base, changed = published(tmp_path / "root")
    later = base.model_copy(update={"version": "p/l1/2", "parent": changed.version})
    offered = OfferedWeights([tmp_path / "root"], VOCAB)

    with pytest.raises(Invalid, match="takes whole versions, no adapters") as refused:
        offered.offer([base, changed, later])

    assert refused.value.errors[0].field == "manifests[1].base"
    assert offered.get(base.version) is None


def test_other_bytes_than_were_offered_are_refused(tmp_path: Path) -> None:
    manifests = published(tmp_path / "root")
    offered = OfferedWeights([tmp_path / "root"], VOCAB, adapters=True)
    offered.offer(manifests)
    file = tmp_path / "root" / "p/l0/1" / "adapter_model.safetensors"
    save_file({"x": torch.zeros(1)}, file)

    with pytest.raises(ServiceFailed, match=r"adapter_model\.safetensors does not have the SHA"):
        write_weights(offered, manifests[1], tmp_path)


def test_files_that_are_no_adapter_are_refused_by_name(tmp_path: Path) -> None:
    base, changed = published(tmp_path / "root")
    file = tmp_path / "root" / "p/l0/1" / "adapter_model.safetensors"
    file.write_bytes(b"nothing")
    files = changed.files | {file.name: hashlib.sha256(b"nothing").hexdigest()}
    offered = OfferedWeights([tmp_path / "root"], VOCAB, adapters=True)
    offered.offer([base, changed.model_copy(update={"files": files})])

    with pytest.raises(ServiceFailed, match="p/l0/1"):
        write_weights(offered, changed.model_copy(update={"files": files}), tmp_path)


def test_a_version_that_was_published_in_bfloat16_is_not_rounded_again(tmp_path: Path) -> None:
    folder = WeightFolder(tmp_path / "root", "p", VOCAB)
    weights = {"q": torch.randn(5, 3).bfloat16()}
    manifest = folder.write(weights, "p/l0/1", parent=None, checkpoint=False)
    offered = OfferedWeights([tmp_path / "root"], VOCAB)
    offered.offer([manifest])

    write_weights(offered, manifest, tmp_path, stochastic=True)

    assert torch.equal(load_file(tmp_path / "model.safetensors")["q"], weights["q"])


def test_weights_are_rounded_by_chance_to_neighbours_with_the_right_mean(tmp_path: Path) -> None:
    folder = WeightFolder(tmp_path / "root", "p", VOCAB)
    # A quarter of the way from one bfloat16 to the next, and numbers that it holds.
    between = torch.full((64, 256), 1 + 2**-9)
    own = torch.randn(300).bfloat16().float()
    weights = {"q": between, "turned": -between, "own": own}
    manifest = folder.write(weights, "p/l0/1", parent=None, checkpoint=False)
    offered = OfferedWeights([tmp_path / "root"], VOCAB)
    offered.offer([manifest])

    found: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        write_weights(offered, manifest, tmp_path, stochastic=True)
        found.append(load_file(tmp_path / "model.safetensors"))

    first, again = found
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(one, one.bfloat16().float()) for one in first.values())
    assert torch.equal(first["own"], own)
    for name, sign in (("q", 1), ("turned", -1)):
        assert set(first[name].unique().tolist()) == {sign * 1.0, sign * (1 + 2**-7)}
        up = float((first[name] != sign * 1.0).float().mean())
        assert 0.23 < up < 0.27
