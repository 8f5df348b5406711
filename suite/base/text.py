"""Text from data, plans, models and servers, made safe to print: a terminal obeys what it is sent."""

from __future__ import annotations

import unicodedata

from rich.markup import escape

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the order in which text is shown, so that a name can look like another one."""


def printable(text: object) -> str:
    r"""Text without control characters: each is shown as Python writes it, `\x1b` for escape. Line ends stay.

    An escape sequence could otherwise fill the clipboard (OSC 52), move the cursor or hide a line; and half of a
    surrogate pair, as in a file name that is no UTF-8, cannot be printed at all.
    """
    return "".join(c if c == "\n" or not (unicodedata.category(c) in ("Cc", "Cs") or c in BIDI)
                   else c.encode("unicode_escape").decode() for c in str(text))


def one_line(text: object) -> str:
    """`printable`, without line ends: text of others can then not pass for a line of its own."""
    return printable(text).replace("\n", r"\n")


def plain(text: object) -> str:
    """Text for Rich: `printable`, and square brackets are no markup."""
    return escape(printable(text))
