"""Removes what a program left, however deep: it may nest folders by the thousand.

The library's own ways recurse, and hold a path or a descriptor for each level. Here each folder is
moved to the top before it is emptied, so that two levels are open at a time.
"""

from __future__ import annotations

import os
import stat


def empty(folder: str) -> None:
    """Removes everything in a folder; nobody else may change it meanwhile.

    Raises:
        OSError: Something cannot be removed.
    """
    os.chmod(folder, 0o700)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while names := os.listdir(top):
            for name in names:
                _remove(name, top)
    finally:
        os.close(top)


def _remove(name: str, top: int) -> None:
    """Removes an entry; the folders in it move to the top."""
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for child in os.listdir(inner):
            if _is_folder(child, inner):
                # A random name, since the program may have chosen any other.
                free = os.urandom(16).hex()
                os.rename(child, free, src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, parent: int) -> bool:
    """Whether it is one; it can be opened then, though the program may have locked it."""
    is_folder = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    if is_folder:
        os.chmod(name, 0o700, dir_fd=parent)
    return is_folder
