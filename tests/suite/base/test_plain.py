"""What comes from data, plans and models never reaches the terminal as a command to it."""

import io

import pytest
from rich.console import Console

from suite.base.text import plain, printable
from tests.support.cli import here, medsec, patients, write  # noqa: F401 - fixtures

CLIPBOARD, BOLD, LINK = "\x1b]52;c;aGk=\x07", "[bold]x[/bold]", "[link=http://x]x[/link]"


@pytest.mark.parametrize("text", [CLIPBOARD, BOLD, LINK, "\x9b2J", "a\rb", "\u202egpj", "\udce9.csv", "a\\"])
def test_text_is_shown_as_it_is_and_obeyed_nowhere(text):
    out = io.StringIO()
    Console(file=out, force_terminal=True, highlight=False, width=200).print(f"[dim]{plain(text)}[/]")
    said = out.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "").removesuffix("\n")
    assert said == printable(text)
    assert said.isascii() and "\x1b" not in said and "\x07" not in said
    said.encode()


def test_lines_and_letters_stay():
    assert printable("Übelkeit\n5 µg – 列") == "Übelkeit\n5 µg – 列"


def test_a_class_name_cannot_fill_the_clipboard_or_become_markup(medsec, here):  # noqa: F811
    table = patients()
    column = "[bold]Mark[/bold]"
    table[column] = list(range(len(table["Sick"])))
    table["Sick"] = [CLIPBOARD if k % 2 else LINK for k in range(len(table["Sick"]))]
    code, said, err = medsec("data", "show", write(table), "--target", "Sick", "--positive", LINK)
    assert code == 0, err
    assert "\x1b" not in said and "\x07" not in said
    assert r"\x1b]52;c;aGk=\x07" in said and LINK in said and column in said


def test_an_error_line_is_printable(medsec, here):  # noqa: F811
    code, _, err = medsec("audit", "tabular", "--data", f"x{CLIPBOARD}.csv")
    assert code == 2 and "\x1b" not in err and err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--data", "--model", "--out"])
def test_a_name_that_is_not_utf8_is_one_line(medsec, here, flag):  # noqa: F811
    code, _, err = medsec("audit", "tabular", flag, "p\udce9.csv")
    assert code == 2 and err.count("\n") == 1 and "is not UTF-8; rename" in err
