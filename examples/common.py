"""What the examples share: data, a number with its 95 % interval, a table."""

import sys

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from suite.base import registry
from suite.base.errors import InputError
from suite.core.data import Dataset
from suite.datasets.cache import first_available
from suite.results.metrics import Estimate

PIMA = ("pima", "pima-synthetic")
console = Console(highlight=False, markup=False)  # brackets are intervals here


def load_data(*names: str) -> Dataset:
    """The dataset named on the command line; else the first of `names` that is available, the last being synthetic.

    Without `names`: real Pima patients or, where their file is not, synthetic ones.

    The first line that an example prints says which data ran, and why.
    """
    torch.set_num_threads(1)  # these networks are so small that more threads only get in each other's way
    try:
        builders = {name: registry.load("datasets", name) for name in sys.argv[1:2] or names or PIMA}
        data, reason = first_available(builders, seed=0)
    except InputError as e:
        sys.exit(f"error: {e}")
    print(f"data  {reason}")
    return data


def percent(e: Estimate) -> str:
    """A share with its 95 % interval, as in "78% [71, 84]"."""
    return f"{100 * e.value:.0f}% [{100 * e.low:.0f}, {100 * e.high:.0f}]"


def decimal(e: Estimate) -> str:
    """A number with its 95 % interval, as in "0.61 [0.53, 0.69]"."""
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def show(title: str, headings: list[str], rows: list[list[str]]) -> None:
    """Print a table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
