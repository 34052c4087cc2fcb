"""Small things about files that more than one room needs: atomic replacement, and one writer at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class NoRoom(ValueError):
    """The disk is full: nothing further will fit either."""


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, and a machine that loses power, sees the old or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    commit(temporary, path)


def commit(temporary: Path, path: Path) -> None:
    """Rename a finished, synced file into place and make the rename last."""
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened; there the rename itself has to do
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_tree(folder: Path, pool: Executor) -> None:
    """Bring a folder and all in it to the disk; many at once, because the disk takes them together."""
    if os.name == "posix":
        everything = [folder, *folder.rglob("*")]
        for _ in pool.map(sync_folder, sorted(everything, key=lambda path: path.is_dir())):
            pass


def write_json(path: Path, content: Any) -> None:
    replace_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """Raises ValueError with the file's name if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged (not JSON); restore it from a copy or delete what it describes") from error


@contextmanager
def only_writer(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` (released by the system even when this process is killed).

    Raises ValueError if another process holds it; readers never ask for it.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is writing to {what}; wait until it is done, or stop it") from None
    try:
        yield
    finally:
        lock.release()
