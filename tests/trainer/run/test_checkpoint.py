"""Checkpoints and published weights: complete or absent."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.model.weights import load_weights, weights_of
from preceptor_trainer.run.checkpoint import (
    Position,
    latest_checkpoint,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)


def position(step: int) -> Position:
    return Position(step=step, lineage="l0", weights=f"p/l0/{step}")


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path):
    state = {"optimiser": {"m": torch.arange(3.0)}, "num_steps": 4}

    path = save_checkpoint(tmp_path, position(4), state)
    loaded, learner = load_checkpoint(path)

    assert loaded == position(4)
    assert torch.equal(learner["optimiser"]["m"], state["optimiser"]["m"])


def test_a_checkpoint_of_a_gpu_is_read_into_main_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        # What a file says of tensors that were on a GPU.
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = save_checkpoint(tmp_path, position(4), {"m": torch.arange(3.0)})

    _, learner = load_checkpoint(path)

    assert learner["m"].device.type == "cpu"


def test_a_checkpoint_that_holds_more_than_is_read_can_be_gone_on_from(tmp_path: Path):
    path = save_checkpoint(tmp_path, position(4), {})
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"cursor": 3}))

    loaded, _ = load_checkpoint(path)

    assert loaded == position(4)


def test_an_interrupted_save_is_not_taken_for_a_checkpoint(tmp_path: Path):
    save_checkpoint(tmp_path, position(4), {})
    (tmp_path / ".00000008.partial").mkdir()

    assert latest_checkpoint(tmp_path) == tmp_path / "00000004"


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b.replace(b"\x07" * 64, b"\x09" * 64)]
)
def test_a_checkpoint_that_cannot_be_read_back_is_none_and_the_earlier_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
):
    save_checkpoint(tmp_path, position(4), {})
    save = torch.save

    def damaged(state: Any, file: BinaryIO) -> None:
        whole = io.BytesIO()
        save(state, whole)
        file.write(damage(whole.getvalue()))

    monkeypatch.setattr(torch, "save", damaged)
    with pytest.raises(OSError, match="00000008"):
        save_checkpoint(tmp_path, position(8), {"m": torch.full((64,), 7, dtype=torch.uint8)})

    assert [path.name for path in tmp_path.iterdir()] == ["00000004"]


def test_old_checkpoints_go_and_the_last_stay(tmp_path: Path):
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, position(step), {})

    remove_old_checkpoints(tmp_path, keep=2)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000004", "00000006"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_written_once_and_read_back(tmp_path: Path):
    folder, model = WeightFolder(tmp_path, "p", "0" * 64), Tied()
    folder.write(weights_of(model), "p/l0/0", parent=None, checkpoint=True)
    expected = model.embed.weight.detach().clone()

    nn.init.zeros_(model.embed.weight)
    load_weights(model, folder.read("p/l0/0"))

    assert torch.equal(model.head.weight, expected)


def test_a_published_version_is_never_written_again(tmp_path: Path):
    folder, model = WeightFolder(tmp_path, "p", "0" * 64), Tied()
    first = folder.write(weights_of(model), "p/l0/0", parent=None, checkpoint=False)

    nn.init.zeros_(model.embed.weight)
    second = folder.write(weights_of(model), "p/l0/0", parent=None, checkpoint=False)

    assert second == first


def test_missing_weights_are_refused_by_name():
    with pytest.raises(ValueError, match=r"missing \['embed.weight', 'head.weight'\]"):
        load_weights(Tied(), {})
