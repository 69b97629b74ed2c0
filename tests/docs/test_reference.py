"""The reference has everything that the code has: compared with the code's own account of it."""

import dataclasses
import re

import pytest

from preceptor_clients.sdk.templates import COMPACT, PAPERS, SDPO
from preceptor_trainer.data.formats.named import format_names
from preceptor_trainer.run.config import RunConfig
from reference import commands, configuration, errors, http_api
from reference.markdown import slug
from site_hook import generated

BETWEEN_CELLS = re.compile(r" \| (?=(?:[^`]*`[^`]*`)*[^`]*$)")
"""A bar that is not inside code."""


def rows(page: str) -> dict[str, list[str]]:
    """Cells of every row that a link can point to, by what stands after its `#`."""
    found = {}
    for line in generated()[page].splitlines():
        if line.startswith('| <span id="'):
            address, _, rest = line.removeprefix('| <span id="').partition('"></span>')
            found[address] = [cell.strip() for cell in BETWEEN_CELLS.split(rest.rstrip(" |"))]
    return found


@pytest.mark.parametrize(("name", "command"), list(commands.commands()))
def test_every_option_of_every_command_is_there_with_its_meaning(name, command):
    shown = rows("reference/cli.md")
    section = slug(name.removeprefix("preceptor "))

    assert f"## `{name}`" in generated()["reference/cli.md"]
    for parameter in command.params:
        option = parameter.opts[0].lstrip("-")
        cells = shown[slug(f"{section}-{option}")]
        assert all(flag in cells[0] for flag in parameter.opts if flag.startswith("-"))
        assert parameter.help
        assert " ".join(parameter.help.split()) == cells[-1].replace("\\|", "|")


def test_no_command_is_left_out():
    names = [name for name, _ in commands.commands()]

    assert {"preceptor train", "preceptor expert check", "preceptor corrections people add"} <= {
        *names
    }
    assert all(
        f"(#{slug(n.removeprefix('preceptor '))})" in generated()["reference/cli.md"] for n in names
    )


@pytest.mark.parametrize("key", list(configuration.toml_keys()))
def test_every_key_of_the_deployments_file_is_there_with_its_meaning(key):
    table, _, name = key.rpartition(".")
    cells = rows("reference/deployment.md")[slug(f"{table or 'top'}-{name}")]

    assert cells[0] == f"`{name}`"
    assert len(cells) == 4
    assert cells[-1], f"{key} has no docstring"


def test_keys_of_every_table_are_found():
    keys = set(configuration.toml_keys())

    assert {"gateway.port", "keys.NAME.scopes", "experts.NAME.url", "sources.NAME.use"} <= keys


@pytest.mark.parametrize("key", list(configuration.run_file_keys()))
def test_every_key_of_a_runs_file_is_there_with_its_meaning(key):
    table, _, name = key.rpartition(".")
    cells = rows("reference/run-file.md")[slug(f"{table or 'top'}-{name}")]

    assert cells[0] == f"`{name}`"
    assert len(cells) == 4
    assert cells[-1], f"{key} has no docstring"


@pytest.mark.parametrize("name", format_names())
def test_every_option_of_a_format_is_there_with_its_meaning(name):
    shown = rows("reference/run-file.md")

    for option, *_ in configuration.format_options(name):
        assert shown[slug(f"format-{name}-{option}")][-1], f"{option} has no meaning"


@pytest.mark.parametrize("verifier", configuration.verifiers(), ids=lambda v: v.__name__)
def test_every_argument_of_a_verifier_is_there_with_its_meaning(verifier):
    shown = rows("reference/run-file.md")

    for name, *_ in configuration.verifier_options(verifier):
        assert shown[slug(f"verifier-{verifier.__name__}-{name}")][-1], f"{name} has no meaning"


@pytest.mark.parametrize("service", configuration.services(), ids=lambda cls: cls.__name__)
def test_every_option_of_a_service_is_there_with_its_meaning(service):
    shown = rows("reference/services.md")

    for name, *_ in configuration.service_options(service):
        assert shown[slug(f"{service.__name__}-{name}")][-1], f"{name} has no docstring"


@pytest.mark.parametrize("cls", configuration.run_classes(), ids=lambda cls: cls.__name__)
def test_every_field_of_a_run_is_there_with_its_meaning(cls):
    shown = rows("reference/run.md")

    for field in dataclasses.fields(cls):
        if field.init:
            cells = shown[slug(f"{cls.__name__}-{field.name}")]
            assert len(cells) == 4, f"{cls.__name__}.{field.name} has no docstring"


def test_a_runs_parts_are_found_behind_their_protocols():
    names = {cls.__name__ for cls in configuration.run_classes()}

    assert {"DistIL", "GRPO", "OptimiserConfig", "SamplingParams", "EvaluationConfig"} <= names
    assert RunConfig in configuration.run_classes()


def test_every_error_is_there_with_what_to_do():
    codes = [error.code for error in errors.errors()]
    page = generated()["reference/errors.md"]

    assert sorted(errors.ADVICE) == sorted(codes)
    assert all(f"{{#{code}}}" in page for code in codes)


DOCUMENTS = {"gateway": http_api.gateway_openapi(), "expert": http_api.expert_openapi()}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_of_every_schema_has_a_description(name):
    schemas = [*DOCUMENTS[name]["components"]["schemas"].items(), *bodies(DOCUMENTS[name])]

    missing = [
        f"{title}.{key}"
        for title, schema in schemas
        for key, field in schema.get("properties", {}).items()
        if not field.get("description", "").endswith(".")
    ]
    assert missing == []


def bodies(document):
    """The bodies of requests whose schemas are part of their route."""
    for _, path, operation in http_api.routes(document):
        for body in operation.get("requestBody", {}).get("content", {}).values():
            yield path, body.get("schema", {})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_route_and_every_parameter_has_a_description(name):
    missing = [
        f"{method} {path} {parameter.get('name', '')}"
        for method, path, operation in http_api.routes(DOCUMENTS[name])
        for parameter in (
            {"description": operation.get("description") or operation.get("summary")},
            *operation.get("parameters", []),
        )
        if not (parameter.get("description") or "").endswith(".")
    ]
    assert missing == []


def test_no_two_messages_share_a_name():
    assert not [name for name in DOCUMENTS["gateway"]["components"]["schemas"] if "__" in name]


@pytest.mark.parametrize(
    ("page", "document"),
    [
        ("reference/gateway-api.md", DOCUMENTS["gateway"]),
        ("reference/expert-api.md", DOCUMENTS["expert"]),
    ],
    ids=["gateway", "expert"],
)
def test_every_route_and_message_is_there(page, document):
    text = generated()[page]

    for method, path, operation in http_api.routes(document):
        assert f"### `{method} {path}`" in text
        assert all(f"`{p['name']}`" in text for p in operation.get("parameters", []))
    for name in document["components"]["schemas"]:
        assert f"### `{name}`" in text


def test_every_option_that_takes_a_template_names_every_template():
    shown = [
        cells[-1]
        for page in ("reference/services.md", "reference/run-file.md")
        for address, cells in rows(page).items()
        if address.endswith("-template") and "Jinja" in cells[-1]
    ]

    assert len(shown) > 5
    for template in (COMPACT, PAPERS, SDPO):
        assert all(f"`{template.name}`" in text for text in shown)
