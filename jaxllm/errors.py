"""Exceptions that are shown to the user as a message, without a traceback."""

from pathlib import Path


class UserError(Exception):
    """Error in the user's input: a file, a key or a value.

    The command line prints it without a traceback and exits with status 2.

    Args:
        what: the problem, in one sentence.
        where: file, line or key that has the problem.
        fix: how the user can solve it.
    """

    def __init__(self, what: str, where: object | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        message = what if where is None else f"{where}: {what}"
        super().__init__(message if fix is None else f"{message}\n  fix: {fix}")


class StorageError(Exception):
    """A file could not be written: the disk is full or a quota is used up.

    The command line prints it without a traceback and exits with status 1. Files written earlier are complete; no
    file is left half-written.
    """


class LimitError(Exception):
    """The job is done, and a measure is below the limit that the user gave.

    The command line prints it without a traceback, after the result, and exits with status 3.

    Args:
        what: the problem, in one sentence.
        path: result.json, printed as of a job without limits; None where none is written.
    """

    def __init__(self, what: str, path: Path | None = None):
        self.path = path
        super().__init__(what if path is None else f"{what}\n  the result is in {path}")
