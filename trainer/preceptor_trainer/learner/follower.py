"""A rank other than 0: does what rank 0 says until there is no rank 0.

python -m preceptor_trainer.learner.follower RANK SIZE PORT     # started by `group.py`
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from preceptor_trainer.learner.group import END, Group, joined
from preceptor_trainer.learner.leader import Setup
from preceptor_trainer.learner.sharded import ShardedLearner


def follow(group: Group) -> None:
    """Does what rank 0 tells, and leaves the group at the end."""
    learner: ShardedLearner | None = None
    while True:
        what, arguments = group.shared()
        if what == END:
            group.close()
            return
        if what == "setup":
            (setup,) = arguments
            assert isinstance(setup, Setup)
            learner = setup.learner(group)
        else:
            _do(learner, what, arguments)


def _do(learner: ShardedLearner | None, what: str, arguments: tuple[Any, ...]) -> None:
    assert learner is not None, f"{what}, before a learner was set up"
    getattr(learner, what)(*arguments)


def _end_with_rank_0() -> None:
    # Blocks until the other end is closed, which the system does when rank 0 ends in any way.
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def main() -> None:
    """Joins the rank 0 that started this process."""
    rank, size, port = sys.argv[1:]
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    follow(joined(int(rank), int(size), int(port)))


if __name__ == "__main__":
    main()
