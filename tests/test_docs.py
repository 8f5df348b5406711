"""The documentation: what it tells people to type runs, what it links to is there, and what is generated is complete.

A fenced block under the line `<!-- run -->` is carried out: with a `title`, it becomes the file of that name; of a
`sh` block each line is a command, of a `python` block the whole. Blocks of a page share a folder and follow each other.
`<!-- run: exit 1 -->` says how the last command of the block ends.
"""

import importlib
import json
import re
import runpy
import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOOLS = DOCS / "tools"
WRITTEN = sorted(p for p in DOCS.rglob("*.md"))
PROJECT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
BLOCK = re.compile(r"^<!-- run(?:: exit (\d))? -->\n+```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")
PEERS = DOCS / "explanation" / "peers.md"


def blocks(page: Path) -> list[tuple[int, str, str, str]]:
    """The blocks of a page that run: expected exit code, language, file name, text."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(int(code or 0), language, title, text) for code, language, title, text in found]


RUNNABLE = [page for page in [ROOT / "README.md", *WRITTEN] if blocks(page)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, no real data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDSEC_DATA", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def carry_out(here, monkeypatch, capsys):
    """Run one line of a shell block in this process, so that libraries are imported once; its exit code and output."""
    (medsec,) = entry_points(group="console_scripts", name="medsec")

    def command(line: str) -> tuple[int, str]:
        words = shlex.split(line, comments=True)
        if words[:2] in (["medsec", "audit"], ["medsec", "federate"]) and "--verify" not in words:
            words += ["--jobs", "1"]  # which changes no number, and starts no process
        monkeypatch.setattr(sys, "argv", words if words[0] == "medsec" else words[1:])
        assert words[0] in ("medsec", "python"), f"cannot run: {line}"
        code = 0
        try:
            medsec.load()() if words[0] == "medsec" else runpy.run_path(words[1], run_name="__main__")
        except SystemExit as e:
            code = e.code or 0
        said = capsys.readouterr()
        return code, said.out + said.err

    return command


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_people_to_type_runs(page, here, carry_out):
    for expected, language, title, text in blocks(page):
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{page.name}, a python block", "exec"), {"__name__": "__main__"})
        else:
            assert language == "sh", f"{page.name}: no way to run {language}"
            lines = text.replace("\\\n", " ").strip().splitlines()
            for i, line in enumerate(lines):
                code, said = carry_out(line)
                assert code == (expected if i == len(lines) - 1 else 0), f"{page.name}: {line}\n{said}"


def test_the_pages_that_teach_are_run():
    for folder in ("tutorials", "how-to"):
        assert {p.parent.name for p in RUNNABLE} >= {folder}
    taught = {p for p in WRITTEN if p.parent.name == "tutorials" and p.stem != "index"}
    assert taught and not taught - set(RUNNABLE)


@pytest.fixture(scope="module")
def tools():
    """Imports what the docs are built with; these modules have ordinary names, and leave nothing behind."""
    before = set(sys.modules)
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module
    sys.path.remove(str(TOOLS))
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(TOOLS)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def made(tools):
    """The pages that are made from the code."""
    return tools("pages").made()


@pytest.mark.parametrize("page", [*PROJECT, *WRITTEN], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page, made):
    generated = {DOCS / uri: text for uri, text in made.items()}
    for target in (a or b for a, b in LINK.findall(_prose(page.read_text(encoding="utf-8")))):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or file in generated, f"{page.relative_to(ROOT)} links to {target}, which is not there"
        if anchor:
            text = generated[file] if file in generated else file.read_text(encoding="utf-8")
            assert anchor in anchors(text), f"{page.relative_to(ROOT)} links to {target}, which has no such section"


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as Markdown makes them."""
    headings = re.findall(r"^#+ (.*?)(?: \{ #([\w-]+) \})?$", _prose(text), re.M)
    return {given or re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
            for title, given in headings}


def is_module(folder: Path, parts: list[str]) -> bool:
    """Whether a dotted name leads to a folder or a module, or to something in a module."""
    if not parts:
        return True
    if (folder / parts[0]).is_dir():
        return is_module(folder / parts[0], parts[1:])
    return (folder / f"{parts[0]}.py").is_file()


@pytest.mark.parametrize("page", [*PROJECT, *WRITTEN], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_and_file_that_is_named_is_there(page):
    """So that what moves takes its name in the documentation along."""
    text = page.read_text(encoding="utf-8")
    dotted = re.findall(r"\b(?:suite|tabular|imaging|privacy|federated)(?:\.[a-z_]+)+\b(?![/(]| =)", text)
    for name in {name for name in dotted if not name.endswith((".md", ".toml"))}:
        assert is_module(ROOT, name.split(".")), f"{page.name}: no module {name}"
    files = re.findall(r"`((?:tests|examples|suite|tabular|imaging|privacy|federated|docs|\.github)/[\w/.-]+)`", text)
    for name in files:
        assert (ROOT / name).exists() or page.name == "CHANGELOG.md" or name == "tabular/pima_diabetes.csv", name


def test_every_page_is_in_the_navigation(made):
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    uris = {p.relative_to(DOCS).as_posix() for p in WRITTEN} | {
        uri for uri in made if uri.endswith(".md") and not uri.startswith("reference/api/")}
    assert not {uri for uri in uris if uri not in nav}


def test_the_readme_is_short_and_has_no_table_of_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert not re.search(r"\d\.\d+ \(\d\.\d+ to \d\.\d+\)", text), "measured figures stand in docs/results"


def test_the_catalogue_has_every_entry_in_full(made, carry_out):
    listed = json.loads(carry_out("medsec list --json")[1])
    text = "\n".join(made.values())
    for kind in ("attacks", "defenses", "detectors", "models", "aggregations", "partitions"):
        for entry in listed[kind]:
            assert f"{{ #{entry['name']} }}" in text, f"{kind}: {entry['name']}"
    for kind in ("datasets", "readers", "presets", "threats"):
        for entry in listed[kind]:
            assert f"`{entry['name']}`" in text, f"{kind}: {entry['name']}"


def test_every_key_of_a_plan_and_a_schema_is_explained(made):
    for uri in ("reference/plan.md", "reference/schema.md"):
        rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", made[uri], re.M)
        assert len(rows) >= 13
        bare = {key for key, meaning in rows if not meaning.strip()}
        assert bare <= {"name", "terms", "max"}, f"{uri}: no meaning of {bare}"


def test_every_field_of_a_row_is_explained(tools):
    text = (DOCS / "reference" / "rows.md").read_text(encoding="utf-8")
    assert not [name for name in tools("keys").model("Measurement", "suite").model_fields if f"`{name}`" not in text]


def test_the_tests_that_the_page_on_peers_names_are_there():
    named = re.findall(r"`(test_\w+)`", PEERS.read_text(encoding="utf-8"))
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert not [name for name in named if f"def {name}(" not in code]


def test_the_picture_of_layers_shows_circles_and_leaves_out_what_follows(tools):
    layers = tools("layers")
    graph = {"core": set(), "data": {"core"}, "audit": {"core", "data", "report"}, "report": {"audit", "data"},
             "cli": {"core", "audit", "report"}}
    assert layers.rows(graph) == [[{"core"}], [{"data"}], [{"audit", "report"}], [{"cli"}]]
    assert {name: layers.direct(graph, name) for name in graph} == {
        "core": set(), "data": {"core"}, "audit": {"data"}, "report": {"data"}, "cli": {"audit"}}


def test_the_docs_have_a_lock_of_their_own_beside_that_of_set_up():
    def pinned(file):
        found = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / file).read_text(encoding="utf-8"), re.M)
        return {name.lower().replace("_", "-"): version for name, version in found}

    docs = pinned("requirements-docs.lock")
    assert {"mkdocs-material", "mkdocstrings"} <= docs.keys()
    assert not docs.keys() & pinned("requirements.lock").keys()
    assert docs.items() <= pinned("constraints.txt").items(), "make lock"


def test_nothing_is_requested_from_elsewhere():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config and "strict: true" in config
    for page in WRITTEN:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<script|<iframe|src=\"https?:", page.read_text(encoding="utf-8"))
