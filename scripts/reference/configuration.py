"""Settings of a deployment, options of the services, and the values that make a run."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import griffe
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from preceptor_clients.sdk import judging
from preceptor_services.kit.settings import load_settings
from preceptor_trainer.data.formats.named import format_class, format_names
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.runfile.objectives import OBJECTIVES, Named
from preceptor_trainer.runfile.schema import RunFile
from reference import docstrings
from reference.markdown import anchor, code, heading, join, slug, table

HEADINGS = ("type", "default", "meaning")
DEPLOYMENT = """
# Deployment's file

One TOML file, `preceptor.toml`, tells gateway, dispatcher and supervisor what runs where. Unknown
keys are refused. Relative paths are relative to the file. `PRECEPTOR_DATABASE` and
`PRECEPTOR_BROKER` in the environment win over the file. Secrets stay in files of their own. `NAME`
stands for a name that you choose: 1 to 64 letters, digits, `.`, `_` and `-`, the first a letter or
a digit.
"""
SERVICES = """
# Options of experts and sources

What a service's class takes: in the deployment's file as `[experts.NAME.options]` or
`[sources.NAME.options]`, at `preceptor serve MODULE:CLASS` as `--option KEY=VALUE`. Unknown
options are refused. Paths are those of the process: give whole ones.
"""
RUN = """
# Configuration of a run

A recipe is a function that returns a [`RunConfig`](#runconfig). Every class on this page is a
frozen dataclass that checks its values when it is built; all fields are given by name. Where a
field's type is a protocol (objective, context policy, schedule, source of rollouts, selection),
the classes that fit it follow here too, and one of your own fits as well.
"""
RUN_FILE = """
# The file of a run

`preceptor train run.toml` reads it ([how to](../how-to/train-your-own-model.md)). Unknown keys are
refused. Relative paths are relative to the file. `--set SECTION.KEY=VALUE` replaces a key; the
value is TOML or a bare word. `NAME` stands for a name that you choose.
"""
NAMED = """
Names of objectives, for `[objective] use`. The fields of the class are the keys of
`[objective.options]`, and a class in a field is a table.
"""
VERIFIERS = """
Verifiers, for `[feedback] use`. The arguments are the keys of `[feedback.options]`. `answer` and
the like name columns of the row. A package of yours adds more by entry points in the group
`preceptor.verifiers`.
"""
FORMATS = """
Formats of files, for `[data] format`. The fields are the keys of `[data.format_options]`.
"""
SERVICE_ROOMS = (
    "preceptor_services.experts",
    "preceptor_services.feedback",
    "preceptor_services.corrections",
    "preceptor_clients.vllm_expert",
)

ENGINE_LIBRARIES = ("triton", "vllm")

Row = tuple[str, str, str, str]
"""Name, type, default and meaning of one field."""


def deployment_page() -> str:
    """Every key of the deployment's TOML file."""
    sections = [_toml_section(path, model) for path, model in toml_tables()]
    return join(DEPLOYMENT, *sections)


def services_page() -> str:
    """Every option of every expert and feedback source of ours."""
    return join(SERVICES, *(_service(cls) for cls in services()))


def run_file_page() -> str:
    """Every key of a run's TOML file; objectives, formats and verifiers by name."""
    sections = [_toml_section(path, model) for path, model in run_file_tables()]
    formats = [heading(2, "Formats", "formats"), FORMATS, *map(_format, format_names())]
    named = [heading(2, "Verifiers", "verifiers"), VERIFIERS, *map(_verifier, verifiers())]
    return join(RUN_FILE, *sections, _objectives(), *formats, *named)


def run_page() -> str:
    """`RunConfig` and everything that it is made of."""
    classes = run_classes()
    names = [cls.__name__ for cls in classes]
    return join(RUN, *(_dataclass(cls, names) for cls in classes))


# ---------------------------------------------------------------- the file of a run


def run_file_tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """Path of each table of a run's file, and the model that checks it."""
    yield from _tables("", RunFile)


def run_file_keys() -> Iterator[str]:
    """Whole path of every key of a run's file that has a value of its own."""
    yield from _keys(run_file_tables())


def format_options(name: str) -> list[Row]:
    """Options of a format that a file may set."""
    return _fields(format_class(name))


def _format(name: str) -> str:
    about = docstrings.first_line(inspect.getdoc(inspect.getmodule(format_class(name))) or "")
    return join(
        heading(3, code(name), f"format-{name}"),
        about,
        _rows(f"format-{name}", "option", format_options(name)),
    )


def verifiers() -> list[Callable[..., Any]]:
    """The verifiers that come with preceptor."""
    found = judging.verifiers()
    return [found[name].load() for name in sorted(found) if found[name].value.startswith("precep")]


def verifier_options(verifier: Callable[..., Any]) -> list[Row]:
    """Arguments of a verifier that a file may set."""
    parameters = inspect.signature(verifier).parameters.values()
    meanings = _meanings(inspect.getdoc(verifier) or "")
    return [
        (p.name, _annotation(p), _parameter_default(p), meanings.get(p.name, ""))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    ]


def _verifier(verifier: Callable[..., Any]) -> str:
    name = verifier.__name__
    about = docstrings.first_line(inspect.getdoc(verifier) or "")
    rows = verifier_options(verifier)
    return join(heading(3, code(name), name), about, _rows(f"verifier-{name}", "argument", rows))


def _objectives() -> str:
    rows = [
        [code(name), f"[{named.cls.__name__}](run.md#{slug(named.cls.__name__)})", learns(named)]
        for name, named in OBJECTIVES.items()
    ]
    return join(heading(2, "Objectives", "objectives"), NAMED,
                table(("name", "class", "learns from"), rows))  # fmt: skip


def learns(named: Named) -> str:
    """What an objective learns from, in words."""
    return "teacher and rewards" if named.learns_from == "both" else named.learns_from


# ---------------------------------------------------------------- deployment


def toml_tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """Path of each table of the file, as in `experts.NAME`, and the model that checks it."""
    root: type[BaseModel] = get_type_hints(load_settings)["return"]
    yield from _tables("", root)


def toml_keys() -> Iterator[str]:
    """Whole path of every key that has a value of its own."""
    yield from _keys(toml_tables())


def _keys(tables: Iterator[tuple[str, type[BaseModel]]]) -> Iterator[str]:
    for path, model in tables:
        for name in model.model_fields:
            if not _inner_tables(model, name):
                yield f"{path}.{name}" if path else name


def _tables(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    if any(not _inner_tables(model, name) for name in model.model_fields):
        yield path, model
    for name in model.model_fields:
        for suffix, inner in _inner_tables(model, name):
            whole = f"{path}.{name}{suffix}" if path else f"{name}{suffix}"
            yield from _tables(whole, inner)


def _inner_tables(model: type[BaseModel], name: str) -> list[tuple[str, type[BaseModel]]]:
    """Tables that a field holds: itself, or one for each name."""
    annotation: Any = model.model_fields[name].annotation
    named = get_origin(annotation) in (dict, Mapping)
    candidates = get_args(annotation)[1:] if named else (annotation, *get_args(annotation))
    models = [c for c in candidates if inspect.isclass(c) and issubclass(c, BaseModel)]
    return [(".NAME" if named else "", inner) for inner in models]


def _toml_section(path: str, model: type[BaseModel]) -> str:
    rows = [
        (name, *_pydantic_row(model, name, info))
        for name, info in model.model_fields.items()
        if not _inner_tables(model, name)
    ]
    title = f"`[{path}]`" if path else "At the top"
    about = _without_own_name(docstrings.of_class(model))
    return join(heading(2, title, path or "top"), about, _rows(path or "top", "key", rows))


def _without_own_name(text: str) -> str:
    """The docstring without the tables that it names first; the heading has them."""
    rest = re.sub(r"^`\[[^`]*\]`( or `\[[^`]*\]`)*[:.]?\s*", "", text)
    return rest[:1].upper() + rest[1:]


def _pydantic_row(model: type[BaseModel], name: str, info: FieldInfo) -> tuple[str, str, str]:
    kind = " ".join([_type_name(info.annotation), *_bounds(info.metadata)])
    default = (
        "required" if info.is_required() else _shown(info.get_default(call_default_factory=True))
    )
    return kind, default, info.description or docstrings.of_field(model, name)


def _bounds(constraints: Sequence[object]) -> list[str]:
    found = {
        name: value
        for constraint in constraints
        for name in ("ge", "gt", "le", "lt", "min_length")
        if (value := getattr(constraint, name, None)) is not None
    }
    if "ge" in found and "le" in found:
        return [f"from {found['ge']} to {found['le']}"]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "at least"}
    return [f"{sign} {found[name]}" for name, sign in signs.items() if name in found]


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "None"
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in arguments if a is not type(None))
    if origin in (tuple, list, set, frozenset):
        return f"list of {_type_name(arguments[0])}"
    if origin in (dict, Mapping):
        return "table"
    return {"str": "text", "bool": "true or false", "Path": "path"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


# ---------------------------------------------------------------- services


def services() -> list[type[Any]]:
    """Classes of ours that a deployment can name in `use`."""
    found = {
        cls: None
        for room in SERVICE_ROOMS
        for module in _modules(room)
        for cls in _classes(module)
        if hasattr(cls, "info") and (hasattr(cls, "logprobs") or hasattr(cls, "feedback"))
    }
    return list(found)


def service_options(cls: type[Any]) -> list[Row]:
    """Options of a service: fields of its configuration, or arguments of its constructor."""
    config = vars(importlib.import_module(cls.__module__)).get(f"{cls.__name__}Config")
    if config is not None and is_dataclass(config):
        return _fields(typing.cast("type[Any]", config))
    return _arguments(cls)


def _service(cls: type[Any]) -> str:
    use = f"{cls.__module__}:{cls.__name__}"
    about = docstrings.first_line(importlib.import_module(cls.__module__).__doc__ or "")
    rows = service_options(cls)
    return join(
        heading(2, cls.__name__, cls.__name__),
        about,
        f'    use = "{use}"',
        _rows(cls.__name__, "option", rows) if rows else "It takes no options.",
    )


def _arguments(cls: type[Any]) -> list[Row]:
    meanings = _meanings(inspect.getdoc(cls.__init__) or "")
    parameters = list(inspect.signature(cls).parameters.values())
    return [
        (p.name, _annotation(p), _parameter_default(p), meanings.get(p.name, ""))
        for p in parameters
        if p.kind is not p.VAR_KEYWORD and not str(p.annotation).startswith(("Connect", "Callable"))
    ]


def _meanings(text: str) -> dict[str, str]:
    return {
        argument.name: argument.description
        for section in griffe.Docstring(text).parse("google", warnings=False)
        if section.kind is griffe.DocstringSectionKind.parameters
        for argument in section.value
    }


def _annotation(parameter: inspect.Parameter) -> str:
    return str(parameter.annotation).removesuffix(" | None")


def _parameter_default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else _shown(parameter.default)


# ---------------------------------------------------------------- runs


def run_classes() -> list[type[Any]]:
    """`RunConfig` and every dataclass that a field of its may hold, nearest first."""
    found: dict[type[Any], None] = {}
    waiting: list[type[Any]] = [RunConfig]
    while waiting:
        cls = waiting.pop(0)
        if cls not in found:
            found[cls] = None
            waiting += _held_by(cls)
    return list(found)


def _held_by(cls: type[Any]) -> Iterator[type[Any]]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        for held in _classes_in(hints[field.name]):
            if is_dataclass(held):
                # Values that are compared are configuration; what holds arrays is data.
                yield from [held] if _is_configuration(held) else []
            elif getattr(held, "_is_protocol", False) and held.__module__.startswith("preceptor"):
                yield from _implementations(held)


def _classes_in(annotation: Any) -> Iterator[type[Any]]:
    if inspect.isclass(annotation) and annotation.__module__.startswith("preceptor"):
        yield annotation
    for inner in get_args(annotation):
        if not isinstance(inner, list):
            yield from _classes_in(inner)


def _implementations(protocol: type[Any]) -> Iterator[type[Any]]:
    """Configurable classes of the protocol's own package that have all its members."""
    wanted = {n for n in vars(protocol) if n == "__call__" or not n.startswith("_")}
    if not any(inspect.isfunction(vars(protocol)[name]) for name in wanted):
        return  # fields alone: what is passed around, and no behaviour to choose
    module = importlib.import_module(protocol.__module__)
    package = protocol.__module__ if hasattr(module, "__path__") else module.__package__ or ""
    for name in _modules(package):
        for cls in _classes(name):
            if is_dataclass(cls) and not inspect.isabstract(cls) and _is_configuration(cls):
                yield from [cls] if all(_has(cls, protocol, name) for name in wanted) else []


def _has(cls: type[Any], protocol: type[Any], name: str) -> bool:
    """Whether a class has a member of the protocol; a method with the same arguments."""
    if name in {f.name for f in fields(cls)}:
        return True
    own, wanted = inspect.getattr_static(cls, name, None), vars(protocol)[name]
    if not inspect.isfunction(wanted):
        return own is not None
    return inspect.isfunction(own) and _argument_names(own) == _argument_names(wanted)


def _argument_names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _is_configuration(cls: Any) -> bool:
    return cls.__dataclass_params__.frozen and cls.__dataclass_params__.eq


def _dataclass(cls: type[Any], linked: Sequence[str]) -> str:
    rows = _fields(cls)
    return join(
        heading(2, cls.__name__, cls.__name__),
        f"`{cls.__module__}`",
        docstrings.of_class(cls),
        _rows(cls.__name__, "field", rows, linked) if rows else "It has no fields.",
    )


# ---------------------------------------------------------------- both


def _fields(cls: type[Any]) -> list[Row]:
    return [
        (
            f.name,
            docstrings.type_of_field(cls, f.name),
            _default(f),
            docstrings.of_field(cls, f.name),
        )
        for f in fields(cls)
        if f.init
    ]


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return _shown(field.default)
    if field.default_factory is not MISSING:
        factory: Callable[[], Any] = field.default_factory
        return _shown(factory())
    return "required"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple | list):
        items: list[Any] = list(typing.cast("Any", value))
        return code("[" + ", ".join(_plain(item) for item in items) + "]")
    if isinstance(value, Mapping):
        return code("{}") if not value else code(dict(typing.cast("Any", value)))
    return code(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return f'"{value}"'
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}()"
    return str(value)


def _rows(section: str, name: str, rows: list[Row], linked: Sequence[str] = ()) -> str:
    """A table of fields; a type that is one of `linked` leads to its section."""
    return table(
        (name, *HEADINGS),
        [
            [anchor(f"{section}-{field}") + code(field), _linked(kind, linked), default, meaning]
            for field, kind, default, meaning in rows
        ],
    )


def _linked(kind: str, names: Sequence[str]) -> str:
    found = [name for name in names if name in re.findall(r"\w+", kind)]
    return f"[{code(kind)}](#{slug(found[0])})" if found else code(kind)


def _modules(package: str) -> Iterator[str]:
    root = importlib.import_module(package)
    yield package
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        yield module.name


def _classes(module: str) -> Iterator[type[Any]]:
    """Public classes that a module defines itself; none where an engine's library is missing."""
    try:
        members = vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name not in ENGINE_LIBRARIES:
            raise
        return
    for value in members.values():
        if inspect.isclass(value) and value.__module__ == module and value.__name__[0] != "_":
            yield value


def address(section: str, field: str) -> str:
    """What links to a field's row end in."""
    return slug(f"{section}-{field}")
