"""The deployment's file names every expert once, with what it needs."""

import tomllib

import pytest

from preceptor_trainer.experiments.compare.method import Service
from preceptor_trainer.experiments.compare.services import (
    NoModel,
    larger_model,
    self_teacher,
    write_deployment,
)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def written(tmp_path, services, model):
    return tomllib.loads(write_deployment(tmp_path, services, model).read_text())


def test_a_self_teacher_gets_the_student_and_where_its_versions_lie(tmp_path, model):
    settings = written(tmp_path, {"frozen": self_teacher(ema_rate=0.0)}, model)

    options = settings["experts"]["frozen"]["options"]
    assert options["model"] == str(model)
    assert options["ema_rate"] == 0.0
    assert options["name"] == "frozen"
    assert options["weights_roots"] == [str(tmp_path / "runs")]
    assert settings["gateway"]["weights_roots"] == ["runs"]


def test_a_trust_region_is_an_option_of_the_self_teacher_only_where_asked_for(tmp_path, model):
    services = {"near": self_teacher(ema_rate=1.0, trust_region=0.1), "plain": self_teacher()}

    experts = written(tmp_path, services, model)["experts"]

    assert experts["near"]["options"]["trust_region"] == 0.1
    assert "trust_region" not in experts["plain"]["options"]


def test_a_larger_model_keeps_its_own(tmp_path, model):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")

    settings = written(tmp_path, {"larger": larger_model(other)}, model)

    options = settings["experts"]["larger"]["options"]
    assert options["model"] == str(other)
    assert "weights_roots" not in options


def test_an_expert_of_another_kind_gets_its_own_options_alone(tmp_path, model):
    settings = written(tmp_path, {"mine": Service(use="m:Mine", options={"depth": 3})}, model)

    assert settings["experts"]["mine"]["options"] == {"depth": 3}


def test_a_model_that_is_not_there_is_named_before_anything_starts(tmp_path, model):
    with pytest.raises(NoModel, match=r"'larger' has no model at .*make larger"):
        written(tmp_path, {"larger": larger_model(tmp_path / "nowhere")}, model)
