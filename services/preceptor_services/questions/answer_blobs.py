"""Stored answers of experts, as packs.

The gateway stores answers and passes them on. Their arrays were checked by a dispatcher and are
read by a trainer; here they stay unread.
"""

from __future__ import annotations

from preceptor_clients.contract import frame
from preceptor_clients.contract.schemas import PrefixAnswer
from preceptor_services.kit.array_blobs import OURS, Packs


class AnswerBlobs(Packs[PrefixAnswer]):
    """Packs of answers by their keys."""

    def _decode(self, data: bytes) -> dict[str, PrefixAnswer]:
        entries = frame.decode(data, limits=OURS, unread=True)
        return {key: PrefixAnswer.model_validate(entry) for key, entry in entries.items()}
