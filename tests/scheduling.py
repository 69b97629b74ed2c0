"""Which tests one of two workers runs."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_TOGETHER = {
    "tests/e2e/": "trainer",
    "tests/own_model/": "trainer",
    "tests/trainer/theory/": "theory",
}
"""Folders whose files share what is dear to make: a deployment and a process that has imported the
trainer; every finding of the theory."""


class FilesAndFolders(LoadFileScheduling):
    """Gives a worker whole files, and those that share services as if they were one file."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (name for folder, name in _TOGETHER.items() if nodeid.startswith(folder))
        return next(shared, None) or super()._split_scope(nodeid)
