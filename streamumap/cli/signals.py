"""SIGINT and SIGTERM: the first asks the run to stop, the second ends the process; so does a stop that takes too long.

A thread waits for them, since Python's own handlers wait until the main thread comes out of a long call. Ending the
process at once does no harm: a run goes on after any death.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SECONDS = 8.0
"""From the first signal to the end, at most; the end itself takes a moment too."""

AT_ONCE = "streamumap: stopped at once; the same command continues the run."


@contextmanager
def stop_signals(exit_code: int) -> Iterator[threading.Event]:
    """The event is set by the first signal. Belongs to the main thread."""
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
