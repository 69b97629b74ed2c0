"""A deployment as a schema: what it refuses, what it writes, and what its paths mean."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_clients.contract.deployment import (
    PATH_OPTIONS,
    SECTIONS,
    DeployedGateway,
    Deployment,
    local_key,
    local_service,
    parse_deployment,
    to_toml,
)
from preceptor_clients.contract.schemas import ServiceRole

SELF_TEACHER = "preceptor_services.experts.self_teacher:SelfTeacher"

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
options = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values, max_size=3),
    lambda inner: st.dictionaries(st.text("abc. \"'", min_size=1), inner, max_size=3),
    max_leaves=6,
)


def expert(use: str, **given: Any) -> Deployment:
    return Deployment(experts={"teacher": local_service("teacher", use, given)})


@given(options)
def test_a_written_deployment_reads_back_as_it_was(given: dict[str, Any]) -> None:
    written = expert("m:Mine", **{"given": given})

    assert parse_deployment(to_toml(written)) == written
    assert parse_deployment(to_toml(written, defaults=True)) == written


def test_only_what_was_said_is_written_and_a_comment_stands_above_it() -> None:
    text = to_toml(Deployment(gateway=DeployedGateway(port=0)), comment="one\ntwo")

    assert text.startswith("# one\n# two\n")
    assert tomllib.loads(text) == {"gateway": {"port": 0}}


def test_a_null_in_a_list_of_options_is_refused_since_toml_has_none() -> None:
    with pytest.raises(ValueError, match=r"options: .*NoneType"):
        to_toml(expert("m:Mine", values=[None]))


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("[gateway]\nprot = 1", r"gateway\.prot: is unknown here; did you mean `port`\?"),
        ("[expert.e]\nurl = 'u'", r"expert: is unknown here; did you mean `experts`\?"),
        ("[keys.k]\nfile = 'f'\nscope = []", r"keys\.k\.scope: .* did you mean `scopes`\?"),
        ("[experts.e]\nzzz = 1", r"experts\.e\.zzz: .* there are url, key_file, cost"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        parse_deployment(text)


def test_one_name_for_two_services_is_refused() -> None:
    same = local_service("same", "m:Mine")

    with pytest.raises(ValueError, match=r"sources: 'same' stands in \[experts\] too"):
        Deployment(experts={"same": same}, sources={"same": same})


def test_every_role_has_a_section_and_its_services_are_listed_with_it() -> None:
    service = local_service("any", "m:Mine")
    sections = {section: {f"of-{role}": service} for role, section in SECTIONS.items()}

    deployment = Deployment.model_validate(sections)

    assert set(SECTIONS) == set(get_args(ServiceRole))
    assert [(role, name) for role, name, _ in deployment.services()] == [
        (role, f"of-{role}") for role in SECTIONS
    ]


def test_relative_paths_are_in_the_folder_and_absolute_ones_stay(tmp_path: Path) -> None:
    written = Deployment(
        gateway=DeployedGateway(weights_roots=(Path("w"), Path("/absolute"))),
        keys={"trainer": local_key("trainer")},
    )

    anchored = written.anchored(tmp_path)

    assert anchored.gateway.database == f"sqlite+aiosqlite:///{tmp_path}/preceptor.db"
    assert anchored.gateway.weights_roots == (tmp_path / "w", Path("/absolute"))
    assert anchored.key_for("trainer") == tmp_path / "keys" / "trainer.key"


def test_paths_among_the_options_of_our_own_services_are_in_the_folder_too(tmp_path: Path) -> None:
    given = {"model": "student", "weights_roots": ["w", "/absolute"], "template": "compact"}

    ours = expert(SELF_TEACHER, **given).anchored(tmp_path).experts["teacher"].options
    theirs = expert("m:Mine", **given).anchored(tmp_path).experts["teacher"].options

    assert ours == {
        "model": str(tmp_path / "student"),
        "weights_roots": [str(tmp_path / "w"), "/absolute"],
        "template": "compact",
    }
    assert theirs == given


@pytest.mark.parametrize("use", PATH_OPTIONS)
def test_every_option_that_is_said_to_be_a_path_is_one_that_its_service_takes(use: str) -> None:
    module_name, _, name = use.partition(":")
    module = importlib.import_module(module_name)
    taken = set(inspect.signature(getattr(module, name)).parameters)
    configs = [v for k, v in vars(module).items() if k.endswith("Config") and isinstance(v, type)]

    taken |= {field.name for config in configs for field in fields(config)}

    assert taken.issuperset(PATH_OPTIONS[use])
