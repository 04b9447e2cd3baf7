"""The errors a user can cause: each names the value, the place and the remedy.

`EcgJepaError` is the root; every kind is also the built-in error that callers expect (ValueError for values,
OSError for files), so plain `except ValueError` keeps working.
"""


class EcgJepaError(Exception):
    """Root of all errors of this package that a user can cause and mend."""


class EcgJepaConfigError(EcgJepaError, ValueError):
    """A configuration value that describes no model."""


class EcgJepaInputError(EcgJepaError, ValueError):
    """A signal, mask or label that does not fit the input contract."""


class EcgJepaCheckpointError(EcgJepaError, OSError):
    """A checkpoint that is incomplete, damaged, or of a kind that is never loaded."""


class EcgJepaOutputError(EcgJepaError, OSError):
    """A place that cannot be written to, or that holds something we would overwrite."""


class EcgJepaRecordError(EcgJepaError, OSError):
    """A record file that cannot be read as what it claims to be.

    Args:
        reason (`str`): the same few words for all records with this fault; skipped records are counted by it.
        message (`str`): the value, the place and the remedy.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        # OSError with two arguments would otherwise come back from a worker process as (errno, strerror).
        return type(self), (self.reason, str(self))
