"""Files that survive a kill: written whole or not at all, sealed, locked, set aside if damaged."""

import errno
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import filelock

HALF = f".{platform.node()}.half"
"""How names of files end that are being written here; they are hidden, too.

On another machine they end otherwise. Its locks may not be seen here, so what looks left over from
it may be in the making."""


def write_atomically(path: Path, content: bytes, before: Path | None = None) -> None:
    """Write a file so that at any moment either the old or the new one is there, whole.

    Args:
        path: of the file.
        content: of the file.
        before: where the old one goes, instead of being gone.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=HALF)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if before is not None:
            with suppress(FileNotFoundError):
                os.replace(path, before)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = f"free {len(content)} bytes and run again, what is finished stays"
            raise OSError(error.errno, f"{path}: the disk is full; {advice}") from None
        raise


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be alone in a folder: wait for others, and remove what one killed here was writing.

    The system frees the lock when its holder dies; a holder may take it again. Over a network file
    system it holds if that passes on ``flock``; see ``records.store`` for where it does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone = filelock.FileLock(folder / ".lock", is_singleton=True)
    try:
        alone.acquire(blocking=False)
    except filelock.Timeout:
        print(f"{folder}: another process is at work here; waiting for it", flush=True)
        alone.acquire()
    try:
        for half in folder.glob(f".*{HALF}"):
            half.unlink(missing_ok=True)
        yield
    finally:
        alone.release()


def write_sealed(path: Path, content: dict) -> None:
    """Write a JSON record together with a checksum of its own content."""
    sealed = content | {"seal": _seal(content)}
    write_atomically(path, (json.dumps(sealed, indent=1) + "\n").encode())


def read_sealed(path: Path) -> dict:
    """Read what ``write_sealed`` wrote.

    Raises:
        ValueError, KeyError, AttributeError: it is damaged.
        FileNotFoundError: there is none.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("seal") != _seal(content):
        raise ValueError("its content was altered")
    return content


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file out of the way and say so, so that it is computed anew."""
    aside = path.with_name(f"{path.name}.damaged")
    with suppress(FileNotFoundError):  # another process found it first
        os.replace(path, aside)
    print(f"set aside {path} as {aside.name}: {reason}; it is computed anew", flush=True)


@cache
def pass_over(path: Path, reason: str) -> None:
    """Say once that a damaged published file is not used."""
    print(f"passed over {path}: {reason}; it is computed anew", flush=True)


def sha256(content: bytes | Path) -> str:
    """SHA-256 of bytes, or of a file, hexadecimal."""
    content = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha256(content).hexdigest()


def _seal(content: dict) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())
