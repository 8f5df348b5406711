"""A preset's audit from the command line, cut down so that a test can wait for it."""

import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import tomli_w

from suite.base import registry
from suite.cli import app as cli
from suite.cli import terminal
from suite.results import metrics
from suite.results.run import Run


def preset(name):
    """The plan that ships under a name."""
    return tomllib.loads(Path(registry.load("presets", name)).read_text(encoding="utf-8"))


def cut(kind, item, small):
    """An item of a plan with the hyper-parameters `small`, where it has such."""
    item = {"name": item} if isinstance(item, str) else item
    known = {f.name for f in fields(registry.load(kind, item["name"]))}
    return item | {name: value for name, value in small.items() if name in known}


def audit(plan, folder, *patches, options=()):
    """The run of `medsec audit` on a plan, with few bootstrap resamples and whatever else is patched."""
    (folder / "plan.toml").write_text(tomli_w.dumps(plan))
    with pytest.MonkeyPatch.context() as patch:
        for bootstrap in (metrics.bootstrap, metrics.weighted):
            patch.setattr(bootstrap, "__defaults__", (0, None, 20))
        for where, name, value in patches:
            patch.setattr(where, name, value)
        patch.setattr(terminal.console, "_file", (folder / "said").open("w"))
        patch.setattr(sys, "argv", ["medsec", "audit", str(folder / "plan.toml"), "--out", str(folder / "run"),
                                    "--device", "cpu", "--jobs", "1", *options])
        with pytest.raises(SystemExit) as e:
            cli.main()
    assert not e.value.code
    return Run.open(folder / "run")
