"""LiveCodeBench's problems, as the files `test.jsonl` to `test6.jsonl` of its data set have them.

    {"question_id": "abc387_b", "question_content": "...", "starter_code": "", "metadata": "{}",
     "public_test_cases": "[{\\"input\\": ..., \\"output\\": ..., \\"testtype\\": \\"stdin\\"}]",
     "private_test_cases": "eJx...", "contest_date": "...", ...}

Test cases are JSON in a text. Private ones may be packed instead: base64 of zlib of a pickle of
that text. The pickle is read, never run: only the operations of a single text are known here.

Source: github.com/LiveCodeBench/LiveCodeBench, `lcb_runner/benchmarks/code_generation.py`, and
`lcb_runner/prompts/code_generation.py` for the prompt. Left out: its prompts for single models.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, cast

from preceptor_clients.contract.json_text import read_json
from preceptor_clients.contract.programs import ProgramCase, packed_cases
from preceptor_trainer.data.formats.named import Part
from preceptor_trainer.data.reading import ReadRow
from preceptor_trainer.kit.seeding import derived_seed

SYSTEM: Final = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests."
)
WITH_STARTER: Final = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
WITHOUT_STARTER: Final = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)
MOST_BYTES: Final = 512 << 20
"""Bytes of one problem's private cases when they are unpacked."""
_KEPT: Final = ("question_title", "question_content", "platform", "difficulty", "starter_code",
                "contest_id", "contest_date")  # fmt: skip
_TEXT_OPERATIONS: Final = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
_TEXTS: Final = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}


@dataclass(frozen=True, kw_only=True)
class Format:
    """Options of the format."""

    prompt: Literal["livecodebench", "short"] = "livecodebench"
    """`livecodebench`: its own words for chat models, with its system turn. `short`: the question
    and the starter code alone, for small models."""
    since: date | None = None
    """Contests from this day on; those of the sixth version are `2025-02-01` and later."""
    before: date | None = None
    """Contests before this day."""
    private: Literal["hidden", "shown", "left out"] = "hidden"
    """What the feedback may tell of private cases: that one failed, or all about it, as in SDPO
    (arXiv 2601.20802); or they are not run at all."""
    train_share: float = 1.0
    """Share of each problem's private cases that is trained on; held-out rows have all of them.
    SDPO trains on a half."""
    seed: int = 0
    """Chooses that share."""
    time_limit_s: float = 6.0
    """Processor time of each case."""
    memory_mb: int = 1024
    """Memory of each case."""

    def __post_init__(self) -> None:
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share: {self.train_share} is not above 0 and at most 1")

    def __call__(self, rows: Sequence[ReadRow], part: Part) -> list[ReadRow]:
        """The problems of the chosen contests."""
        found: list[ReadRow] = []
        for row in rows:
            try:
                if self._is_chosen(row.columns):
                    found.append(ReadRow(row.where, self._columns(row.columns, part)))
            except ValueError as error:
                raise ValueError(f"{row.where}: {error}") from None
        if rows and not found:
            raise ValueError(f"{rows[0].where}: no contest is from {self.since} to {self.before}")
        return found

    def _is_chosen(self, columns: Mapping[str, Any]) -> bool:
        if self.since is None and self.before is None:
            return True
        try:
            day = datetime.fromisoformat(_text(columns, "contest_date")).date()
        except ValueError as error:
            raise ValueError(f"contest_date: is not a date: {error}") from None
        return (self.since is None or day >= self.since) and (
            self.before is None or day < self.before
        )

    def _columns(self, columns: Mapping[str, Any], part: Part) -> dict[str, Any]:
        name = _text(columns, "question_id")
        entry = _entry(columns)
        mode = "stdin" if entry is None else "function"
        public = _cases(columns, "public_test_cases", mode)
        private = [] if self.private == "left out" else _cases(columns, "private_test_cases", mode)
        if part == "train" and private:
            private = self._share(name, private)
        shown = public if self.private == "hidden" else [*public, *private]
        hidden = private if self.private == "hidden" else []
        if not (shown or hidden):
            raise ValueError("public_test_cases: is empty, and so are the private ones")
        return {
            "id": name,
            "messages": self._messages(columns),
            **{column: columns[column] for column in _KEPT if column in columns},
            "language": "python",
            "mode": mode,
            **({} if entry is None else {"entry": entry}),
            "shown": packed_cases(shown),
            "hidden": packed_cases(hidden),
            "time_limit_s": self.time_limit_s,
            "memory_mb": self.memory_mb,
        }

    def _share(self, name: str, cases: list[ProgramCase]) -> list[ProgramCase]:
        count = max(1, int(len(cases) * self.train_share))
        chosen = random.Random(derived_seed(self.seed, "cases", name)).sample(
            range(len(cases)), count
        )
        return [cases[i] for i in sorted(chosen)]

    def _messages(self, columns: Mapping[str, Any]) -> list[dict[str, str]]:
        question, starter = _text(columns, "question_content"), str(columns.get("starter_code", ""))
        if self.prompt == "short":
            return [
                _turn("user", f"{question}\n```python\n{starter}\n```" if starter else question)
            ]
        words = WITH_STARTER if starter else WITHOUT_STARTER
        code = starter or "# YOUR CODE HERE"
        asked = (
            f"### Question:\n{question}\n\n### Format: {words}\n```python\n{code}\n```\n\n"
            "### Answer: (use the provided format with backticks)\n\n"
        )
        return [_turn("system", SYSTEM), _turn("user", asked)]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _text(columns: Mapping[str, Any], column: str) -> str:
    value = columns.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column}: is missing or empty; is this a file of LiveCodeBench?")
    return value


def _entry(columns: Mapping[str, Any]) -> str | None:
    metadata = _json(str(columns.get("metadata") or "{}"), "metadata")
    fields = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    name = fields.get("func_name")
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"metadata: func_name is {name!r}, not the name of a function")
    return name


def _cases(columns: Mapping[str, Any], column: str, mode: str) -> list[ProgramCase]:
    text = str(columns.get(column) or "[]")
    listed = _json(text if text.lstrip().startswith("[") else unpacked(text, column), column)
    if not isinstance(listed, list):
        raise ValueError(f"{column}: is not a list of cases")
    return [_case(one, f"{column}[{i}]", mode) for i, one in enumerate(cast("list[Any]", listed))]


def _case(given: Any, where: str, mode: str) -> ProgramCase:
    fields = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    got, wanted, kind = fields.get("input"), fields.get("output"), fields.get("testtype")
    if not (isinstance(got, str) and isinstance(wanted, str)):
        raise ValueError(f"{where}: has no texts `input` and `output`")
    if kind != ("stdin" if mode == "stdin" else "functional"):
        raise ValueError(f"{where}: is of type {kind!r}, and the problem of mode {mode}")
    if mode == "stdin":
        return ProgramCase(input=got, expected=wanted)
    arguments = [_json(line, f"{where}.input") for line in got.split("\n")]
    return ProgramCase(input=arguments, expected=_json(wanted, f"{where}.output"))


def _json(text: str, where: str) -> Any:
    try:
        return read_json(text.encode())
    except ValueError as error:
        raise ValueError(f"{where}: is not JSON: {error}") from None


def unpacked(packed: str, where: str) -> str:
    """The text in base64 of zlib of a pickle.

    Raises:
        ValueError: it is something else, too large, or a pickle of more than one text.
    """
    try:
        inflater = zlib.decompressobj()
        pickled = inflater.decompress(base64.b64decode(packed, validate=True), MOST_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(
            f"{where}: is neither JSON nor packed as base64 of zlib: {error}"
        ) from None
    if not inflater.eof:
        raise ValueError(f"{where}: is cut off, or has more than {MOST_BYTES} bytes when unpacked")
    return _pickled_text(pickled, where)


def _pickled_text(pickled: bytes, where: str) -> str:
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name in _TEXTS:
                texts.append(cast("str", argument))
            elif operation.name not in _TEXT_OPERATIONS:
                raise ValueError(f"holds the operation {operation.name}")
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: is not a pickle of one text: {error}") from None
    if len(texts) != 1:
        raise ValueError(f"{where}: is not a pickle of one text, but of {len(texts)}")
    return texts[0]
