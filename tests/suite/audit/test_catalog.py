"""`medsec list` reads files; these say what the code says, and nothing heavy is imported for them."""

import subprocess
import sys

import pytest

from suite.audit import catalog
from suite.base import registry


@pytest.mark.parametrize("package", ["suite", "tabular", "imaging", "privacy", "federated"])
def test_the_file_of_a_package_says_what_its_code_says(package):
    assert catalog.stored(package) == catalog.packages()[package], "run `make catalog`"


def test_a_list_imports_neither_torch_nor_a_package_of_attacks():
    code = ("import sys\nfrom suite.cli.terminal import show_list\nshow_list(None, True)\n"
            "sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'pandas', 'suite.attacks.gradient')))")
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_what_no_file_tells_is_asked_of_the_code(monkeypatch):
    monkeypatch.setattr(catalog, "stored", lambda package: {})
    assert catalog.entries("detectors") == [catalog.described("detectors", n) for n in registry.names("detectors")]
