"""The lock of a run's folder, which ends with its process, and a note that says which process holds it."""

import fcntl
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamumap.errors import InputError
from streamumap.store.atomic import write_through

NOTE = ".holder.json"


def lock(folder: Path) -> int:
    """Locks a folder and returns the descriptor that holds the lock until it is closed.

    Raises InputError, with the holder's name, where another process has it locked, and OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    if not try_lock(descriptor):
        os.close(descriptor)
        raise InputError(
            f"--out: {folder}: another run is writing here{_holder(folder)}; wait for it or choose another --out."
        )
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; False where another process has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def leave_note(folder: Path) -> None:
    """Writes who holds the lock. The note outlasts a killed process, so it counts only while the lock is held."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    note = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": " ".join(sys.argv)}
    write_through(folder / NOTE, lambda file: file.write(json.dumps(note).encode() + b"\n"))


def _holder(folder: Path) -> str:
    """The holder that the note names, as text; empty where there is no note or its process on this host has ended."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if note["host"] == socket.gethostname() and not Path(f"/proc/{int(note['process'])}").exists():
            return ""
        return f", process {note['process']} on {note['host']} since {note['since']} ({note['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
