"""The exceptions a user may see. The command line prints their message as one line, without a traceback."""

UNTRAINED = "training failed, so there is no"
"""How the error of a cell begins that needs a model which another cell failed to train."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, column, value, name or flag, which the message names.

    Raised before any compute starts; the command line exits with code 2.
    """


class NotApplicable(InputError):
    """This attack or defense cannot be used on this classifier; the message says why and what can."""
