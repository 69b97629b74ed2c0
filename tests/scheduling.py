"""Which tests one of two workers runs."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_TOGETHER = ("tests/e2e/", "tests/own_model/")
"""Folders whose files share a deployment and a process that has imported the trainer."""


class FilesAndFolders(LoadFileScheduling):
    """Gives a worker whole files, and those that share services as if they were one file."""

    def _split_scope(self, nodeid: str) -> str:
        return "together" if nodeid.startswith(_TOGETHER) else super()._split_scope(nodeid)
