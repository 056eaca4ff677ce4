"""Errors for users, one class for each exit code of the command line.

Every message is one sentence that says what is wrong, where, what was expected and found, and the remedy.
"""


class StreamUMAPError(Exception):
    """Base of every error meant for users."""

    exit_code = 1


class InputError(StreamUMAPError, ValueError):
    """The input or an option is wrong."""

    exit_code = 2


class UnusedOption(InputError):
    """An option that this input does not use, or that it contradicts. `field`: its name in `source.Reading`."""

    def __init__(self, message: str, field: str):
        super().__init__(message)
        self.field = field


class DoesNotFit(StreamUMAPError, MemoryError):
    """The budget is too small for the job; a budget of `smallest_bytes` is enough."""

    exit_code = 3

    def __init__(self, message: str, smallest_bytes: int):
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


class OutputError(StreamUMAPError, OSError):
    """The output cannot be written."""

    exit_code = 4


class InputChanged(StreamUMAPError):
    """The input changed while it was being read."""

    exit_code = 5


class Stopped(StreamUMAPError):
    """A signal asked the run to stop; the same command continues it."""

    exit_code = 75
