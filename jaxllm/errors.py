"""The exceptions whose message is all the user needs."""


class UserError(Exception):
    """Something the user got wrong: a file, a key, a value.

    The command line prints it without a traceback and exits with status 2.

    Args:
        what: what is wrong, in one sentence.
        where: the file, line or key it is wrong in.
        fix: what to do about it.
    """

    def __init__(self, what: str, where: object | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        message = what if where is None else f"{where}: {what}"
        super().__init__(message if fix is None else f"{message}\n  fix: {fix}")


class StorageError(Exception):
    """A file could not be written: the disk is full or a quota is used up.

    The command line prints it without a traceback and exits with status 1. What was complete before stays
    complete: no file is left half-written.
    """
