"""The exceptions a user may see. The command line prints their message as one line, without a traceback."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, column, value, name or flag, which the message names.

    Raised before any compute starts; the command line exits with code 2.
    """


class NotApplicable(InputError):
    """This attack or defense cannot be used on this classifier; the message says why and what can."""


class Untrained(InputError):
    """A model is not there because its training failed.

    Attributes:
        cell: Key of the cell that failed to train it.
    """

    def __init__(self, message: str, cell: str) -> None:
        super().__init__(message)
        self.cell = cell
