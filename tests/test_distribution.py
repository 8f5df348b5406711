"""What `pip install medsec` leaves out would only be missed on another machine."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = sorted(p.rstrip("*") for p in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_that_is_no_module_is_package_data(package):
    folder = ROOT / package
    there = {f for f in folder.rglob("*") if f.is_file() and f.suffix != ".py" and "__pycache__" not in f.parts}
    patterns = PROJECT["tool"]["setuptools"]["package-data"].get(package, [])
    packed = {pattern: set(folder.glob(pattern)) for pattern in patterns}
    assert there == set().union(*packed.values())
    assert all(packed.values()), "a pattern that matches nothing"


def test_everything_imported_is_declared():
    imported = set()
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(node.module.split(".")[0])
    outside = imported - sys.stdlib_module_names - set(PACKAGES)
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
    offered = packages_distributions()
    undeclared = {m for m in outside if not declared & {canonicalize_name(d) for d in offered.get(m, [])}}
    assert not undeclared
    assert {"torch", "sklearn"} <= outside
