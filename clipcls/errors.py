"""Every error that clipcls raises on purpose, and the exit code the command line gives it.

    ClipclsError              1  anything else that went wrong
    ├── UsageError            2  a bad flag, label, template or setting
    ├── InputError            3  no images found, or a path that does not exist
    │   └── DecodeError       3  one picture that cannot be read (becomes a Failure record)
    ├── ModelError            4  unknown model, or weights that cannot be had or do not fit
    ├── DeviceError           5  the device is missing or unusable
    │   └── OutOfMemory       5  a batch did not fit (the pipeline halves it and tries again)
    ├── StoreError            6  the embedding cache cannot be opened or written
    └── OutputError           7  results cannot be written

Exit code 0 means that all went well, 3 also that a run finished with some images unreadable, and 130 that the
person interrupted it. A message is one line: what is wrong, where, and what to do next.
"""


class ClipclsError(Exception):
    """Base of every error raised on purpose; its text is meant for people."""

    exit_code = 1


class UsageError(ClipclsError):
    """What the person asked for makes no sense: a flag, label, template or setting."""

    exit_code = 2


class InputError(ClipclsError):
    """There is nothing to work on."""

    exit_code = 3


class DecodeError(InputError):
    """One picture cannot be read; the text is the reason, without the path.

    ``lasting`` says whether the same bytes will fail again (then the reason is remembered), as opposed to a file
    that could not be opened just now or a package that is missing.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


class ModelError(ClipclsError):
    """The model is unknown, or its weights cannot be had or do not fit."""

    exit_code = 4


class DeviceError(ClipclsError):
    """The device is missing or cannot be used."""

    exit_code = 5


class OutOfMemory(DeviceError):
    """A batch did not fit into the device's memory."""


class StoreError(ClipclsError):
    """The embedding cache cannot be opened or written."""

    exit_code = 6


class OutputError(ClipclsError):
    """Results cannot be written."""

    exit_code = 7
