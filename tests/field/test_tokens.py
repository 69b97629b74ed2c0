"""Control tokens, ends and starts, and texts that a tokenizer or a page would change."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers

from preceptor_clients.contract.checks import check_query
from preceptor_clients.contract.control_tokens import control_tokens, end_ids, pad_id
from preceptor_clients.contract.corrections import EditRules
from preceptor_clients.contract.errors import Invalid, VocabularyMismatch
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackItem,
    Message,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
    WeightManifest,
)
from preceptor_clients.contract.tokenization import TokenizeCall
from preceptor_clients.sdk.chat_encoding import ChatEncoder
from preceptor_clients.sdk.context import build_context
from preceptor_clients.sdk.offered_weights import OfferedWeights
from preceptor_clients.sdk.templates import COMPACT
from preceptor_clients.targets.edits import compile_edit, spelled
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_services.experts.larger_model import LargerModel
from preceptor_services.experts.remote.aligned.aligning import Aligning
from preceptor_services.experts.remote.aligned.alignment import Pieces, readings
from preceptor_services.experts.remote.drawing.retokenizing import Drawn, next_token, prefix_text
from preceptor_services.experts.remote.drawing.sample_only import SampleOnly
from preceptor_services.experts.remote.scoring.openai_http import OpenAIServer
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.student.architecture import make_tokenizer, prompt_ids

from ..services.experts.remote.foreign import END, FakeServer
from .small_models import (
    REFUSING,
    STARTED,
    TRIMMING,
    byte_level,
    loaded,
    model_folder,
    saved,
    word_pieces,
)

STOP, TURN, DONE = 0, 1, 2
"""Of `byte_level`: the only end with a name, and two that are marked and have none."""
PAGE = Path(__file__).parents[2] / "services/preceptor_services/corrections/page"
CHAT = [{"role": "user", "content": "Say it."}]
DECOMPOSED = "cafe\u0301 one two three four\nthe cat sat on the mat\nnai\u0308ve five six"


def query(vocab: str, response: list[int], *messages: Message, **fields: Any) -> PrefixQuery:
    shown = messages or (Message(role="user", content="Say it."),)
    values: dict[str, Any] = {"top_k": 4, "timeout_ms": 20_000} | fields
    return PrefixQuery(
        prompt=Prompt(messages=shown), response_ids=response, vocab_fingerprint=vocab, **values
    )


# ---------------------------------------------------------------- marked and not named


def test_a_control_token_is_what_the_table_marks_whatever_its_name(tmp_path: Path) -> None:
    tokenizer = loaded(byte_level(), tmp_path)
    tokenizer.add_tokens(["<think>"])

    assert control_tokens(tokenizer) == {STOP: "<|stop|>", TURN: "<|turn|>", DONE: "<|done|>"}
    assert TURN not in tokenizer.all_special_ids


def test_the_fingerprint_tells_whether_a_nameless_token_is_marked(tmp_path: Path) -> None:
    marked = loaded(byte_level(), tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text())
    rules["added_tokens"][DONE]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))

    plain = loaded(
        marked.__class__(tokenizer_object=Tokenizer.from_str(json.dumps(rules))), tmp_path
    )

    assert tokenizer_fingerprint(marked).startswith("v2-")
    assert tokenizer_fingerprint(plain) != tokenizer_fingerprint(marked)


def test_a_fingerprint_of_the_old_rule_is_refused_and_both_versions_are_named() -> None:
    today = tokenizer_fingerprint(make_tokenizer())
    old = today.removeprefix("v2-")

    with pytest.raises(VocabularyMismatch, match=r"of version 1, .* of version 2") as refused:
        check_query(query(today, [1]), Capabilities(vocab_fingerprint=old))

    assert refused.value.status == 409


def test_weights_with_a_fingerprint_of_the_old_rule_are_refused_in_the_same_words(
    tmp_path: Path,
) -> None:
    today = tokenizer_fingerprint(make_tokenizer())
    manifest = WeightManifest(
        version="p/l0/0",
        uri=tmp_path.as_uri(),
        files={"model.safetensors": "0" * 64},
        vocab_fingerprint=today.removeprefix("v2-"),
    )

    with pytest.raises(Invalid, match=r"of version 2, .* of version 1"):
        OfferedWeights([tmp_path], today).offer([manifest])


@pytest.fixture
def student(tmp_path: Path) -> StudentTokenizer:
    return StudentTokenizer(saved(make_tokenizer(), tmp_path / "student"))


@pytest.mark.parametrize("ends", [None, [STOP, DONE]])
def test_a_teachers_end_of_turn_is_the_students_end(
    student: StudentTokenizer, tmp_path: Path, ends: list[int] | None
) -> None:
    teacher = StudentTokenizer(saved(byte_level(), tmp_path / "teacher", ends=ends))
    pieces = Pieces(student, teacher)

    assert teacher.end_ids == {STOP, DONE}
    assert [pieces.student_id(i) for i in (STOP, DONE)] == [END, END]
    assert pieces.student_id(TURN) is None


def test_an_end_that_both_have_stays_itself(tmp_path: Path) -> None:
    names = ("<|other|>", "<|turn|>", "<|done|>")
    student = StudentTokenizer(saved(byte_level(), tmp_path / "student", ends=[STOP, DONE]))
    teacher = StudentTokenizer(saved(byte_level(names=names), tmp_path / "teacher"))

    assert Pieces(student, teacher).student_id(DONE) == DONE
    assert Pieces(student, teacher).student_id(STOP) == STOP


class Ending(FakeServer):
    """Ends its turn with a chance of 0.9 wherever it is asked."""

    def table(self, ids: Any) -> np.ndarray:
        chances = np.full((len(ids), self.tokenizer.vocab_size), 0.1)
        chances /= self.tokenizer.vocab_size - 1
        chances[:, DONE] = 0.9
        return np.log(chances)


async def test_the_students_end_has_the_chance_of_the_teachers_end_of_turn(
    serve: Any, student: StudentTokenizer, tmp_path: Path
) -> None:
    folder = saved(byte_level(), tmp_path / "teacher")
    server = await serve(tokenizer=StudentTokenizer(folder), max_model_len=400, kind=Ending)
    expert = Aligning(
        url=server.url, tokenizer=str(tmp_path / "student"), teacher_tokenizer=str(folder)
    )
    await expert.start()

    [reply] = await expert.logprobs([query(student.vocab_fingerprint, [*b"the cat", END])], [])
    await expert.stop()

    assert isinstance(reply, PrefixAnswer)
    assert reply.mask_P.all()
    assert (reply.ids_PK[:, 0] == END).all()
    np.testing.assert_allclose(np.exp(reply.logprobs_PK[:, 0]), 0.9, rtol=1e-4)


@pytest.mark.parametrize("last", [[], [STOP], [DONE], [TURN], [TURN, DONE]])
def test_an_unchanged_text_with_control_tokens_has_no_labels(
    tmp_path: Path, last: list[int]
) -> None:
    spelling = TokenizerSpelling.of(loaded(byte_level(), tmp_path))
    body = spelling.encode("the cat sat")
    base = np.array([*body[:2], TURN, *body[2:], *last], np.int32)

    edit = compile_edit(spelling, base, "the cat sat", EditRules())

    assert edit.spans == ()
    assert edit.takeover_ids.tolist() == base.tolist()
    assert (edit.base_labels(accepted=False) == -1).all()


# ---------------------------------------------------------------- several ends, no padding


def test_every_end_of_the_configurations_is_an_end(tmp_path: Path) -> None:
    tokenizer = loaded(byte_level(), tmp_path, ends=[DONE, TURN])

    assert end_ids(tokenizer) == {STOP, DONE, TURN}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert end_ids(tokenizer) == {STOP, DONE}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"eos_token_id": [1]}')
    assert end_ids(tokenizer) == {STOP, TURN, DONE}


def test_what_a_template_writes_behind_an_answer_ends_it_where_nothing_else_is_said(
    tmp_path: Path,
) -> None:
    assert end_ids(loaded(byte_level(), tmp_path / "turns")) == {STOP, DONE}
    assert end_ids(loaded(byte_level(template=REFUSING), tmp_path / "none")) == {STOP}
    assert end_ids(loaded(byte_level(), tmp_path / "declared", ends=[STOP])) == {STOP}


def test_sampling_stops_at_any_end_without_a_padding_token(tmp_path: Path) -> None:
    policy = Policy(model_folder(byte_level(), tmp_path, ends=[STOP, DONE]))
    sampler = LocalSampler(policy.model, end_ids=policy.end_ids, pad_id=policy.pad_id)
    prompts = [policy.encode(CHAT), [*policy.encode(CHAT), 40, 41]] * 200

    drawn = sampler.sample(prompts, SamplingParams(), torch.Generator().manual_seed(0))

    assert policy.tokenizer.pad_token_id is None
    last = [int(one.response_ids[-1]) for one in drawn]
    assert {STOP, DONE} <= set(last)
    for one, end in zip(drawn, last, strict=True):
        assert (one.finish_reason == "stop") == (end in {STOP, DONE})
        assert not {STOP, DONE} & set(one.response_ids[:-1].tolist())


def test_any_id_pads_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    assert pad_id(loaded(byte_level(), tmp_path / "none")) in (STOP, DONE)
    assert pad_id(loaded(byte_level(pad="<pad>"), tmp_path / "own")) == 3


def test_a_correction_keeps_the_end_that_the_student_chose(tmp_path: Path) -> None:
    spelling = TokenizerSpelling.of(loaded(byte_level(), tmp_path))
    base = np.array([*spelling.encode("the cat sat"), DONE], np.int32)

    edit = compile_edit(spelling, base, "the dog sat", EditRules())

    assert edit.takeover_ids[-1] == DONE
    assert len(edit.departures()) == 1


# ---------------------------------------------------------------- one start


def started(folder: Path) -> Any:
    return loaded(byte_level(bos="<s>", template=STARTED), folder)


def test_the_start_of_a_rendered_chat_stays_the_only_one(tmp_path: Path) -> None:
    tokenizer = started(tmp_path)
    chats, start = ChatEncoder(tokenizer), tokenizer.bos_token_id
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)

    for ids in (
        chats.chat_ids(CHAT),
        chats.chat_ids(CHAT, add_special_tokens=True),
        chats.chat_ids([{"role": "user", "content": "<s>"}], add_special_tokens=True),
        chats.written_ids(text),
        chats.written_ids(text, add_special_tokens=True),
        chats.written_ids("the cat", add_special_tokens=True),
    ):
        assert ids.count(start) == 1
        assert ids[0] == start


@pytest.mark.parametrize("body_fields", [None, {"add_special_tokens": False}])
async def test_a_server_of_completions_reads_one_start_token(
    serve: Any, tmp_path: Path, body_fields: dict[str, Any] | None
) -> None:
    tokenizer = started(tmp_path)
    server = await serve()
    expert = SampleOnly(
        url=server.url,
        tokenizer=str(tmp_path),
        api="completions",
        body_fields=body_fields,
        draws=1,
        max_calls=1,
    )
    await expert.start()

    await expert.logprobs([query(tokenizer_fingerprint(tokenizer), [40, 41])], [])
    await expert.stop()

    [body] = [body for path, body in server.asked if path == "/v1/completions"]
    added = body.get("add_special_tokens", True)
    read = tokenizer.encode(body["prompt"], add_special_tokens=added)
    assert read.count(tokenizer.bos_token_id) == 1


# ---------------------------------------------------------------- spelled control tokens

SMALL: dict[str, Callable[[], Any]] = {
    "student": make_tokenizer,
    "turns": byte_level,
    "trims": lambda: byte_level(template=TRIMMING),
    "start": lambda: byte_level(bos="<s>", template=STARTED),
    "composes": lambda: byte_level(normalizer=normalizers.NFC()),
    "prefix space": lambda: byte_level(prefix_space=True),
    "metaspace": lambda: word_pieces("metaspace"),
    "unigram": lambda: word_pieces("unigram"),
    "words": lambda: word_pieces("words"),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return loaded(SMALL[request.param](), tmp_path)


def controls(tokenizer: Any, ids: list[int]) -> list[int]:
    """Control tokens among ids; an unknown word is no control."""
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    return [i for i in ids if i in control_tokens(tokenizer) and i != unknown]


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant", "user")
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def plain_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


ORDINARY = ("the cat", " old price\n30 ", "a < b", "<|", "|>", "", "caf\u00e9 \u6771", "x<think>y")


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_chat_has_the_ids_that_the_tokenizer_gives_it(small: Any, text: str) -> None:
    messages = chat(text, "one" + text, text + "two")

    assert ChatEncoder(small).chat_ids(messages) == plain_ids(small, messages)


def test_spelled_control_tokens_are_characters_and_none_is_lost(small: Any) -> None:
    chats = ChatEncoder(small)
    known = controls(small, chats.chat_ids(chat("a", "b", "c")))
    for word in control_tokens(small).values():
        messages = chat(f"a {word}{word}b", f"{word} c", f"d{word}")

        ids = chats.chat_ids(messages)

        assert controls(small, ids) == known
        assert not controls(small, chats.text_ids(f"{word} a{word}"))


@pytest.mark.parametrize("kind", ["student", "turns", "start"])
def test_no_character_of_a_spelled_token_is_changed(kind: str, tmp_path: Path) -> None:
    tokenizer = loaded(SMALL[kind](), tmp_path)
    messages = chat("".join(control_tokens(tokenizer).values()), "\U000f0000<|stop|", "|done|> x")

    ids = ChatEncoder(tokenizer).chat_ids(messages)

    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == text


def test_a_token_that_template_and_text_would_make_together_is_none(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|turn|>{{ m['content'] | trim }}|>{% endfor %}"
    chats = ChatEncoder(loaded(byte_level(template=template), tmp_path))

    ids = chats.chat_ids(chat("a <|stop "))

    assert [i for i in ids if i < 3] == [TURN]


def test_what_a_program_prints_adds_no_control_token_to_an_experts_context(small: Any) -> None:
    chats = ChatEncoder(small)

    def context(text: str) -> list[int]:
        item = FeedbackItem(id="f", kind="execution", text=text, source="executor", version="1")
        asked = query("v2-" + 64 * "0", [1], feedback=(item,))
        found = build_context(asked, template=COMPACT, encode=chats.chat_ids, max_context=4096)
        return controls(small, found.ids.tolist())

    word = next(reversed(control_tokens(small).values()))
    assert context(f"[3]->[1] not '{word}'") == context("[3]->[1] not ''")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(byte_level(), tmp_path_factory.mktemp("model"))


@pytest.fixture(params=[SelfTeacher, LargerModel])
def scoring(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    expert = request.param(model=str(folder), threads=1)
    yield expert
    expert._torch.shutdown()


async def test_every_encoder_of_chats_keeps_to_the_templates_control_tokens(
    scoring: Any, folder: Path
) -> None:
    policy, beside = Policy(folder), StudentTokenizer(folder)
    spelled_out = chat("a<|done|>b<|turn|>")
    call = TokenizeCall(messages=(Message(role="user", content="a<|done|>b<|turn|>"),))

    found = [
        policy.encode(spelled_out),
        beside.encode_chat(spelled_out),
        scoring._model.encode(spelled_out),
        prompt_ids(policy.tokenizer, spelled_out),
        (await scoring.tokenize(call)).ids.tolist(),
    ]

    assert all(ids == found[0] for ids in found)
    assert [i for i in found[0] if i < 3] == [TURN, DONE, TURN]
    assert [i for i in policy.response_ids("<|done|>") if i < 3] == [STOP]


def test_a_students_text_that_spells_the_teachers_tokens_is_text_to_the_teacher(
    student: StudentTokenizer, tmp_path: Path
) -> None:
    names = ("</s>", "<s>", "<|done|>")
    teacher = StudentTokenizer(saved(byte_level(names=names), tmp_path / "teacher"))
    response = list(b"old <s>30</s> new")

    found = readings(student, teacher, response, list(range(len(response))))

    assert sum(len(reading.rows) for reading in found) == len(response)
    assert not {i for reading in found for i in reading.ids} & teacher.special_ids


async def test_a_text_api_is_not_sent_what_it_would_read_as_control(
    serve: Any, tmp_path: Path
) -> None:
    folder = saved(make_tokenizer(), tmp_path / "student")
    server = await serve()
    expert = SampleOnly(url=server.url, tokenizer=str(folder), api="completions")
    await expert.start()
    vocab = expert.info().capabilities.vocab_fingerprint or ""
    message = Message(role="user", content="print('<|end|>')")

    [refused] = await expert.logprobs([query(vocab, list(b"ab"), message)], [])
    await expert.stop()

    assert isinstance(refused, Invalid)
    assert refused.errors[0].field == "prompt.messages[0].content"
    assert not [path for path, _ in server.asked if path == "/v1/completions"]


def test_a_draw_that_begins_as_a_control_token_is_spelled_tells_nothing(
    student: StudentTokenizer,
) -> None:
    prefix = list(b"ab")

    assert next_token(student, "ab", prefix, Drawn("<|end|> x", False)) is None
    assert next_token(student, "ab", prefix, Drawn("<b> x", False)) == ord("<")
    assert prefix_text(student, list(b"a<|end|>")) is None


# ---------------------------------------------------------------- composed characters, line ends


@pytest.fixture
def composing(tmp_path: Path) -> TokenizerSpelling:
    return TokenizerSpelling.of(loaded(byte_level(normalizer=normalizers.NFC()), tmp_path))


def decomposed_ids(spelling: TokenizerSpelling, text: str) -> np.ndarray:
    """As a student may write it, in tokens of single bytes where the tokenizer would compose."""
    single = {piece: i for i, piece in spelling.pieces.items() if len(piece) == 1}
    ids: list[int] = []
    for word in text.split(" "):
        word = word if not ids else " " + word
        known = spelling.normal(word) == word
        ids += spelling.encode(word) if known else [single[bytes([b])] for b in word.encode()]
    return np.array([*ids, STOP], np.int32)


def base_of(spelling: TokenizerSpelling, *, composed: bool) -> np.ndarray:
    if not composed:
        return decomposed_ids(spelling, DECOMPOSED)
    return np.array([*spelling.encode(DECOMPOSED), STOP], np.int32)


@pytest.mark.parametrize("composed", [False, True])
def test_a_text_that_the_tokenizer_would_compose_has_the_labels_of_its_change_alone(
    composing: TokenizerSpelling, composed: bool
) -> None:
    base = base_of(composing, composed=composed)

    unchanged = compile_edit(composing, base, DECOMPOSED, EditRules())
    edit = compile_edit(composing, base, DECOMPOSED.replace(" mat", " moon"), EditRules())

    assert unchanged.spans == ()
    [(place, token)] = edit.departures().items()
    assert composing.piece(token) == b" moon"
    assert spelled(composing, base[:place]).endswith("sat on the")
    before = spelled(composing, base)
    assert spelled(composing, edit.takeover_ids) == before.replace(" mat", " moon")


def test_two_changes_leave_what_is_between_them_as_the_student_wrote_it(
    composing: TokenizerSpelling,
) -> None:
    text = "one two cafe\u0301 cafe\u0301 cafe\u0301 three four"
    base = decomposed_ids(composing, text)

    edit = compile_edit(
        composing, base, text.replace("two", "six").replace("three", "seven"), EditRules()
    )

    assert [composing.piece(i) for i in edit.departures().values()] == [b" six", b" seven"]
    assert spelled(composing, edit.takeover_ids).count("cafe\u0301") == 3


def test_a_tokenizer_that_puts_a_space_before_a_text_labels_no_unchanged_one(
    tmp_path: Path,
) -> None:
    spelling = TokenizerSpelling.of(loaded(byte_level(prefix_space=True), tmp_path))
    pieces = {piece: i for i, piece in spelling.pieces.items()}
    base = np.array([pieces[b"t"], pieces[b"h"], pieces[b"e"], pieces[b" cat"], STOP], np.int32)

    assert compile_edit(spelling, base, "the cat", EditRules()).spans == ()
    [(place, token)] = compile_edit(spelling, base, "the dog", EditRules()).departures().items()
    assert (place, spelling.piece(token)) == (3, b" dog")


MIXED = "first line\r\nsecond line\nthird line\r\rlast word"


def test_line_ends_of_every_kind_stay_as_they_came(tmp_path: Path) -> None:
    spelling = TokenizerSpelling.of(loaded(byte_level(), tmp_path))
    base = np.array([*spelling.encode(MIXED), STOP], np.int32)

    edit = compile_edit(spelling, base, MIXED.replace("last", "LAST"), EditRules())

    assert len(edit.departures()) == 1
    assert spelled(spelling, edit.takeover_ids) == MIXED.replace("last", "LAST")


LINE_ENDS = (
    (MIXED, ("last", "LAST"), MIXED.replace("last", "LAST")),
    (MIXED, ("second line\n", ""), MIXED.replace("second line\n", "")),
    (MIXED, ("second", "new\nsecond"), MIXED.replace("second", "new\r\nsecond")),
    ("a\rb\nc\r\n", ("b", "B"), "a\rB\nc\r\n"),
    ("a\r\na\na\r", ("a\na\na", "a\nx\na"), "a\r\nx\na\r"),
    ("no carriage\nreturn", ("no", "a\nb"), "a\nb carriage\nreturn"),
)


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's own module")
@pytest.mark.parametrize(("original", "change", "wanted"), LINE_ENDS)
def test_the_page_hands_in_the_line_ends_that_nobody_touched(
    original: str, change: tuple[str, str], wanted: str
) -> None:
    program = (
        f"import {{ normal, withLineEnds }} from {json.dumps((PAGE / 'line_ends.js').as_uri())};"
        f"const text = {json.dumps(original)};"
        f"const shown = normal(text).replace(...{json.dumps(change)});"
        "process.stdout.write(JSON.stringify(withLineEnds(text, shown)));"
    )

    ran = subprocess.run(
        ["node", "--no-warnings", "--input-type=module", "--eval", program],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(ran.stdout) == wanted


# ---------------------------------------------------------------- a template that raises


@pytest.fixture(params=["self-teacher", "larger", "openai", "aligning", "completions"])
async def refusing(request: pytest.FixtureRequest, serve: Any, tmp_path: Path) -> Any:
    """Experts whose chat template takes no system turns."""
    folder = model_folder(byte_level(template=REFUSING), tmp_path / "model")
    if request.param in ("self-teacher", "larger"):
        kind: Any = {"self-teacher": SelfTeacher, "larger": LargerModel}[request.param]
        expert = kind(model=str(folder), threads=1)
        yield expert
        await expert.stop()
        return
    server = await serve(tokenizer=StudentTokenizer(folder), max_model_len=400)
    options: dict[str, Any] = {"url": server.url, "tokenizer": str(folder)}
    if request.param == "aligning":
        expert = Aligning(**options, teacher_tokenizer=str(folder), min_told=0.01)
    elif request.param == "completions":
        expert = SampleOnly(**options, api="completions", draws=1, max_calls=1)
    else:
        expert = OpenAIServer(**options)
    await expert.start()
    yield expert
    await expert.stop()


def test_a_base_model_without_a_chat_template_is_told_where_one_goes() -> None:
    encoder = ChatEncoder(byte_level(template=""))

    with pytest.raises(Invalid, match=r"has no chat template.*chat_template\.jinja into"):
        encoder.chat_ids([{"role": "user", "content": "hi"}])


async def test_a_template_that_raises_fails_its_own_query_in_its_own_words(refusing: Any) -> None:
    vocab = refusing.info().capabilities.vocab_fingerprint
    system = Message(role="system", content="Be short.")
    user = Message(role="user", content="hi")
    good = query(vocab, list(range(40, 44)), user)
    bad = query(vocab, list(range(40, 44)), system, user)

    replies = await refusing.logprobs([good, bad, good], ["a" * 64, "b" * 64, "c" * 64])

    assert [type(reply) for reply in replies] == [PrefixAnswer, Invalid, PrefixAnswer]
    assert replies[1].status == 422
    assert replies[1].errors[0].field == "prompt.messages"
    assert "no system turns here" in replies[1].detail
