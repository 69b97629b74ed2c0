"""Code on the pages works: Python compiles and imports, recipes build, TOML is a deployment's."""

import ast
import dataclasses
import importlib
import tomllib

import pytest
from docs_pages import ROOT, blocks, spans
from transformers import AutoTokenizer

from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_services.kit.settings import load_settings
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.runfile.reading import read_run_file
from reference import configuration

STUDENT = ROOT / "trainer" / "preceptor_trainer" / "student" / "model"
PYTHON = blocks("python")
RUN_FILES = [(place, code) for place, code in blocks("toml") if "[data]" in code]
TOML = [block for block in blocks("toml") if block not in RUN_FILES]
RECIPES = [(place, code) for place, code in PYTHON if "\ndef recipe(" in code]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
CLASSES = {cls.__name__: cls for cls in configuration.run_classes()}
FIELDS = {name: {f.name for f in dataclasses.fields(cls)} for name, cls in CLASSES.items()}
ANY_FIELD = {name for names in FIELDS.values() for name in names}
OPTIONS = {
    f"{cls.__module__}:{cls.__name__}": {name for name, *_ in configuration.service_options(cls)}
    for cls in configuration.services()
}


def cases(found: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("code", [c for _, c in found], ids=[place for place, _ in found])


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")


@cases(PYTHON)
def test_python_compiles_and_what_it_imports_is_there(code):
    tree = compile(code, "page", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@cases(RECIPES)
def test_a_recipe_builds_a_run(code):
    names = {}

    exec(compile(code, "page", "exec"), names)

    arguments = {} if "def recipe(seed" in code else {"name": "from-a-page", "seed": 0}
    assert isinstance(names["recipe"](**arguments), RunConfig)


@cases(TOML)
def test_toml_is_what_a_deployment_takes(code, tmp_path):
    path = tmp_path / "preceptor.toml"
    path.write_text(code)

    load_settings(path, env={})

    raw = tomllib.loads(code)
    for table in (*raw.get("experts", {}).values(), *raw.get("sources", {}).values()):
        known = OPTIONS.get(table.get("use", ""))
        assert known is None or set(table.get("options", {})) <= known


@cases(RUN_FILES)
def test_the_file_of_a_run_is_read(code, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(code)

    assert read_run_file(path).data.train


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_shown_as_it_stands(example):
    text = example.read_text()
    first_line = text.partition("\n")[0]

    shown = [code for _, code in PYTHON if code.startswith(first_line)]
    assert shown in ([], [text])


@cases([(code, code) for code in spans()])
def test_a_call_in_a_sentence_fits_its_class(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            fields = ANY_FIELD if node.func.id == "_" else FIELDS.get(node.func.id)
            given = {keyword.arg for keyword in node.keywords}
            assert fields is None or given <= fields, f"{node.func.id} has no {given - fields}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            cls = CLASSES.get(node.value.id)
            assert cls is None or hasattr(cls, node.attr) or node.attr in FIELDS[cls.__name__]


@cases([(place, code) for place, code in TOML if "fingerprint" in code])
def test_a_fingerprint_on_a_page_is_the_students(code):
    tokenizer = AutoTokenizer.from_pretrained(STUDENT, local_files_only=True)

    assert f'fingerprint = "{tokenizer_fingerprint(tokenizer)}"' in code


def test_there_are_such_blocks():
    assert (len(PYTHON), len(TOML), len(RECIPES), len(RUN_FILES)) >= (5, 5, 3, 1)
