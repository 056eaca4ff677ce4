"""SIGINT and SIGTERM: the first asks the run to stop, the second ends the process. So does a stop that takes too long.

A thread waits for signals, because Python's own handlers wait until the main thread returns from a long call. Ending the process at
once does no harm: the same command continues the run.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SECONDS = 8.0
"""The longest time from the first signal until the process is ended."""

AT_ONCE = "streamumap: stopped at once; the same command continues the run."


@contextmanager
def stop_signals(exit_code: int) -> Iterator[threading.Event]:
    """Yields an event that the first signal sets. Must be called in the main thread."""
    asked = threading.Event()
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(read, asked, exit_code), daemon=True).start()
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)


def _wait(read: int, asked: threading.Event, exit_code: int) -> None:
    if os.read(read, 1):
        asked.set()
        late = not select.select([read], [], [], STOP_SECONDS)[0]
        if late or os.read(read, 1):
            _end(exit_code)
    os.close(read)


def _end(exit_code: int) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # the cursor, which a progress bar hides
    os.write(2, AT_ONCE.encode() + b"\n")
    os._exit(exit_code)
