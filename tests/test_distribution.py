"""What `pip install medsec` leaves out would only be missed on another machine."""

import ast
import re
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


def _locked(name):
    """Package -> (version, text of its entry) of a lock file."""
    entries = re.findall(r"^\S.*?(?=^\S|\Z)", (ROOT / name).read_text(), flags=re.M | re.S)
    parts = [(Requirement(entry.split("\\")[0].strip()), entry) for entry in entries]
    assert all(str(found.specifier).startswith("==") for found, _ in parts), "pinned"
    return {canonicalize_name(found.name): (str(found.specifier)[2:], entry) for found, entry in parts}


LOCK, CUDA = _locked("requirements.lock"), _locked("requirements-cuda.lock")


def test_every_file_that_is_installed_has_its_hash():
    for version, entry in (LOCK | CUDA).values():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), (version, entry[:60])
        assert set(re.findall(r"--hash=(\w+):", entry)) == {"sha256"}
    assert not LOCK.keys() & CUDA.keys()


def test_the_lock_holds_what_the_project_and_its_build_need_in_versions_that_fit():
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"],
              *PROJECT["build-system"]["requires"]]
    for wanted in map(Requirement, needed):
        version, _ = LOCK[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted} is {version} in requirements.lock: make lock"


def test_the_lock_and_the_constraints_name_the_same_versions():
    pinned = {canonicalize_name(name): version for name, version in
              (line.split("==") for line in (ROOT / "constraints.txt").read_text().split())}
    for name in pinned.keys() & LOCK.keys():
        assert LOCK[name][0] == pinned[name], f"{name}: make lock"
    loose = [name for name in LOCK.keys() - pinned.keys() if ";" not in LOCK[name][1].splitlines()[0]]
    assert loose in ([], ["setuptools"]), "only what another platform needs, and the build, may be without a constraint"


@pytest.mark.parametrize("line", ["-m pip install --require-hashes --no-deps -r requirements.lock",
                                  "-m pip install --no-deps --no-build-isolation"])
def test_hospitals_install_as_make_setup_does(line):
    assert line in (ROOT / "Makefile").read_text().replace("install -q", "install")
    assert line in (ROOT / "docs" / "how-to" / "deploy-a-federation.md").read_text()
