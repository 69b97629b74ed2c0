"""People as an expert: it takes the same queries as any expert and answers after a person worked.

    [experts.people]
    url = "http://127.0.0.1:8105"
    key_file = "keys/people.key"
    use = "preceptor_services.corrections.people_expert:PeopleExpert"
    [experts.people.options]
    config = "preceptor.toml"
    model = "path/to/student"

The service puts each query as a question into the gateway's queue and promises to answer later.
Settled items come back as due answers: the service compiles their edits to points on the student's
own states and sends them to the gateway as late answers. The service has no state of its own; open
questions are in the gateway's SQL, so it may be restarted, or run twice, at any time. A crash
between an answer and the record of its version repeats both, and the repetition changes nothing.

A query about a corrected text itself, the take-over, is answered at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from transformers import AutoTokenizer

from preceptor_clients.contract.corrections import Asked, Due, NewItem
from preceptor_clients.contract.errors import Conflict, Invalid, NotFound, PreceptorError
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.http.corrections import CorrectionsClient
from preceptor_clients.sdk.service import AnswerLater, PrefixReply
from preceptor_clients.targets.edits import (
    COMPILER_VERSION,
    LabelRules,
    compile_edit,
    edit_answer,
    spelled,
)
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_services.corrections.expert_view import pieces_as_text
from preceptor_services.kit.settings import load_settings, read_secret

NAME: Final = "people"
_POLL_S: Final = 1.0
_LATE_S: Final = 365 * 86_400.0
"""Deadline of a late answer; closing a round ends its questions sooner."""
_log = logging.getLogger("preceptor.people")

Connect = Callable[[], CorrectionsClient]


class PeopleExpert:
    def __init__(
        self,
        model: str,
        config: str | None = None,
        url: str | None = None,
        key_file: str | None = None,
        smoothing: float = 0.0,
        accepted: bool = False,
        poll_s: float = _POLL_S,
        connect: Connect | None = None,
    ) -> None:
        """Builds the service.

        Args:
            model: Folder of the student, for its tokenizer.
            config: The deployment's TOML file, which names the gateway and a key with the scope
                `expert`; or else:
            url: Where the gateway listens, and
            key_file: The file with such a key.
            smoothing: Probability left to other tokens at each label.
            accepted: Whether tokens that people left as they were are labels too.
            poll_s: How often to look for settled items.
            connect: Makes the gateway's client; for tests.
        """
        self._rules = LabelRules(smoothing=smoothing, accepted=accepted)
        tokenizer: Any = cast("Any", AutoTokenizer).from_pretrained(model, local_files_only=True)
        self._spelling = TokenizerSpelling.of(tokenizer)
        self._vocab = tokenizer_fingerprint(tokenizer)
        self._vocab_size = 1 + max(self._spelling.pieces)
        self._connect = connect or _connector(config, url, key_file)
        self._poll_s = poll_s
        self._gateway: CorrectionsClient
        self._task: asyncio.Task[None] | None = None

    def info(self) -> ServiceInfo:
        """An expert of points that answers late."""
        return ServiceInfo(
            name=NAME,
            role="expert",
            version=version_of(self._rules),
            capabilities=Capabilities(
                kinds=("point",),
                cacheable="until_revised",
                late_s=_LATE_S,
                vocab_fingerprint=self._vocab,
                vocab_size=self._vocab_size,
            ),
            limits=ServiceLimits(max_batch=64, max_concurrency=4),
        )

    async def start(self) -> None:
        """Starts the task that polls for settled items."""
        self._gateway = self._connect()
        self._task = asyncio.create_task(self._answer_forever(), name="people")

    async def stop(self) -> None:
        """Stops polling; open questions stay in the gateway."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._gateway.aclose()
        if self._task is not None and not self._task.cancelled():
            self._task.result()  # raises what had ended it

    # ------------------------------------------------------------ asked

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixReply]:
        """A promise for each query, or an answer where a take-over asks about a settled edit."""
        if len(answer_keys) != len(queries):
            raise Invalid(
                "each query needs an answer key, because people answer later", field="answer_keys"
            )
        texts = [spelled(self._spelling, query.response_ids) for query in queries]
        replies: list[PrefixReply] = []
        asked: list[Asked] = []
        made_of: dict[str, str | None] = {}
        for query, text, key in zip(queries, texts, answer_keys, strict=True):
            found = await self._takeover(query, text)
            if found is None:
                asked.append(Asked(answer_key=key, item=self._item(query, text)))
                replies.append(AnswerLater())
            else:
                answer, made_of[key] = found
                replies.append(answer)
        if asked:
            await self._gateway.ask(asked)
        if made_of:
            await self._gateway.given(made_of)
        return replies

    async def _takeover(
        self, query: PrefixQuery, text: str
    ) -> tuple[PrefixAnswer, str | None] | None:
        for due in await self._gateway.lookup(query.prompt, text):
            if due.text is None or not due.base_ids:
                continue
            edit = compile_edit(self._spelling, np.array(due.base_ids), due.text, due.edits)
            if np.array_equal(edit.takeover_ids, query.response_ids):
                labels = edit.takeover_labels(accepted=self._rules.accepted)
                return self._answer(query, labels, self._rules), due.version
        return None

    def _item(self, query: PrefixQuery, text: str) -> NewItem:
        ended = int(query.response_ids[-1]) in self._spelling.end_ids
        return NewItem(
            prompt=query.prompt,
            response_text=text,
            response_ids=query.response_ids,
            finish_reason="stop" if ended else "length",
            vocab_fingerprint=self._vocab,
            feedback=query.feedback,
            rollout_id=query.rollout_id,
        )

    # ------------------------------------------------------------ answering

    async def _answer_forever(self) -> None:
        spelled_out = False
        while True:
            try:
                if not spelled_out:
                    pieces = pieces_as_text(self._spelling.pieces, self._vocab_size)
                    await self._gateway.put_vocabulary(self._vocab, pieces)
                    spelled_out = True
                await self.answer_due()
            except PreceptorError as error:
                # Outermost handler of a background task: it must go on while the gateway is down.
                _log.warning(
                    "the due answers could not be fetched or recorded, trying again: %s", error
                )
            await asyncio.sleep(self._poll_s)

    async def answer_due(self) -> int:
        """Sends the answers that are due; returns how many."""
        due = await self._gateway.due()
        made_of: dict[str, str | None] = {}
        for one in due:
            try:
                if await self._put(one):
                    made_of[one.answer_key] = one.version
            except PreceptorError as error:
                _log.warning("answer %s could not be sent, trying again: %s", one.answer_key, error)
            except Exception:
                # One answer's failure must not stop the others; this one is tried again.
                _log.exception("answer %s could not be made", one.answer_key)
        if made_of:
            await self._gateway.given(made_of)
        return len(made_of)

    async def _put(self, due: Due) -> bool:
        """Sends one answer. True when the question needs no more work, answered or not."""
        rules = rules_of(due.expert_version or "")
        if rules is None:
            _log.error("question %s: unknown expert version %s", due.answer_key, due.expert_version)
            return True
        base = np.array(due.base_ids, np.int32)
        query = PrefixQuery(
            prompt=due.prompt,
            response_ids=base,
            positions=due.positions,
            vocab_fingerprint=self._vocab,
        )
        answer = self._answer(query, self._labels(due, base, rules), rules)
        try:
            await self._gateway.call("PUT", f"/v1/answers/{due.answer_key}", body=answer)
        except (Conflict, Invalid, NotFound) as error:
            # The ticket is gone, or it has another answer already: the question is finished.
            _log.warning("the gateway refused answer %s: %s", due.answer_key, error)
        return True

    def _labels(self, due: Due, base: np.ndarray, rules: LabelRules) -> np.ndarray:
        """`[T]` labels; none where people only commented, or ended the item without a version."""
        if due.decision == "accept" and rules.accepted:
            return base
        if due.text is None:
            return np.full(len(base), -1, np.int32)
        edit = compile_edit(self._spelling, base, due.text, due.edits)
        return edit.base_labels(accepted=rules.accepted)

    def _answer(self, query: PrefixQuery, labels_T: np.ndarray, rules: LabelRules) -> PrefixAnswer:
        return edit_answer(query, labels_T, rules, expert=NAME, expert_version=version_of(rules))


def version_of(rules: LabelRules) -> str:
    """Names compiler and rules, so that a later process can answer by the same ones."""
    accepted = "accepted" if rules.accepted else "departures"
    return f"{COMPILER_VERSION}/{accepted}/{rules.smoothing!r}"


def rules_of(version: str) -> LabelRules | None:
    """The rules that a version names; None if it names another compiler."""
    compiler, *rest = version.split("/")
    # Questions asked before rounds held `rejoin_tokens` name it between the two.
    if compiler != COMPILER_VERSION or len(rest) not in (2, 3):
        return None
    return LabelRules(accepted=rest[0] == "accepted", smoothing=float(rest[-1]))


def _connector(config: str | None, url: str | None, key_file: str | None) -> Connect:
    if config is not None:
        settings = load_settings(Path(config))
        bound = any(NAME in key.service for key in settings.keys.values())
        file = settings.key_for("expert", NAME if bound else None)
        place, key = settings.gateway.url, read_secret(file)
    elif url is not None and key_file is not None:
        place, key = url, read_secret(Path(key_file))
    else:
        raise ValueError("config: is missing; give config, or both url and key_file")
    return lambda: CorrectionsClient(place, key)
