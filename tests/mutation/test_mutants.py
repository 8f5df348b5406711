"""The list of mutants: each still applies to the code exactly once, and names tests that exist."""

from pathlib import Path

import pytest

from tests.mutation import run
from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.fault}")
def test_a_mutant_applies_exactly_once(mutant):
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, "rewrite the patch in tests/mutation, or drop it with the code it was about"
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    assert mutant.old != mutant.new
    for path in mutant.tests.partition(" -k ")[0].split():
        assert (ROOT / path).exists(), path


def test_faults_are_described_once_each():
    described = [(m.file, m.fault) for m in MUTANTS]
    assert len(set(described)) == len(described) >= 60


def test_a_mutant_is_killed_or_survives_by_its_tests(tmp_path):
    (tmp_path / "code.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "test_code.py").write_text("from code_ import double\n\n\ndef test_two():\n    assert double(2) == 4\n")
    (tmp_path / "code.py").rename(tmp_path / "code_.py")

    def outcome(new, tests="test_code.py", old="2 * x", fine=True):
        return run.judge(Mutant("code_.py", "a fault", old, new, tests), tmp_path, lambda _: fine, 60)

    assert outcome("3 * x") == "killed"
    assert outcome("x + x") == "survived"
    assert outcome("x ** 2") == "survived"  # 2 * 2 and 2 ** 2: what a test of one value does not tell apart
    assert outcome("3 * x", old="4 * x") == "stale"
    assert outcome("3 * x", fine=False) == "broken"
    assert (tmp_path / "code_.py").read_text().endswith("return 2 * x\n")
