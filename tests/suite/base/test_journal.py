"""The journal: whatever is done to a file between two visits, the first line that does not fit is named."""

import hashlib
import json
import os

import pytest

from suite.base.errors import InputError
from suite.base.files import WriteError
from suite.base.journal import Journal, verify


@pytest.fixture
def written(tmp_path):
    """(path, the heads of its five entries)."""
    path = tmp_path / "runs" / "journal.jsonl"
    journal = Journal(path)
    return path, [journal.append("round", number=k, sites=["Köln", "VA"], loss=0.1 * k, kept=None) for k in range(5)]


def edit(path, change):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


def hashed(entry):
    """The entry with the hash it should have, worked out without the journal's help."""
    text = json.dumps({k: v for k, v in entry.items() if k != "hash"}, sort_keys=True, separators=(",", ":"),
                      ensure_ascii=False)
    return entry | {"hash": hashlib.sha256(text.encode()).hexdigest()}


def test_entries_are_chained_by_hash(written):
    path, heads = written
    assert verify(path) == verify(path, heads[-1]) == 5
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["previous"] for entry in entries] == ["0" * 64, *heads[:-1]]
    assert [hashed(entry)["hash"] for entry in entries] == heads
    assert entries[3] == entries[3] | {"event": "round", "number": 3, "sites": ["Köln", "VA"], "loss": 0.1 * 3,
                                       "kept": None}
    assert entries[0]["time"].endswith("+00:00")


def test_an_existing_journal_goes_on(written):
    path, heads = written
    before = path.read_bytes()
    journal = Journal(path)
    assert journal.head == heads[-1]
    head = journal.append("end")
    assert path.read_bytes().startswith(before)
    assert verify(path, head) == 6


@pytest.mark.parametrize(("change", "message"), [
    (lambda x: [*x[:2], x[2].replace(b'"number":2', b'"number":7'), *x[3:]], "line 3 was changed"),
    (lambda x: [x[0].replace(b"Z", b"z").replace("ö".encode(), b"oe"), *x[1:]], "line 1 was changed"),
    (lambda x: [*x[:2], *x[3:]], "line 3 does not follow"),
    (lambda x: x[1:], "line 1 does not follow"),
    (lambda x: [*x[:2], x[3], x[2], x[4]], "line 3 does not follow"),
    (lambda x: [*x[:3], x[2], *x[3:]], "line 4 does not follow"),
    (lambda x: [*x[:4], x[4][:-9]], "line 5 is cut off"),
    (lambda x: [*x[:4], x[4][:-1]], "line 5 is cut off"),
    (lambda x: [*x[:2], b"\n", *x[2:]], "line 3 is no entry"),
    (lambda x: [*x[:2], b'{"n":3}\n', *x[2:]], "line 3 is no entry"),
    (lambda x: [*x[:2], b"[" * 100_000 + b"\n", *x[2:]], "line 3 is no entry"),
    (lambda x: [*x[:4], b"\xff\xfe\n"], "line 5 is no entry")])
def test_what_was_done_to_the_file_is_named_and_not_continued(written, change, message):
    path, _ = written
    edit(path, change)
    for visit in (verify, Journal):
        with pytest.raises(InputError, match=f"journal.jsonl: {message}"):
            visit(path)


@pytest.mark.parametrize("hidden", [b' {"number":2', b'{"number":9,"number":2', b'{"number":2.0'])
def test_a_line_that_means_the_same_is_changed_all_the_same(written, hidden):
    path, _ = written
    edit(path, lambda x: [*x[:2], hidden + b"," + x[2][1:].replace(b'"number":2,', b""), *x[3:]])
    with pytest.raises(InputError, match=r"line 3 (was changed|is no entry)"):
        verify(path)


def test_a_changed_entry_with_a_new_hash_breaks_the_next(written):
    path, _ = written
    forged = hashed(json.loads(path.read_bytes().splitlines()[1]) | {"number": 7})
    line = json.dumps(forged, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    edit(path, lambda x: [x[0], line, *x[2:]])
    with pytest.raises(InputError, match="line 3 does not follow"):
        verify(path)


def test_a_first_entry_that_counts_on_from_others_is_not_the_first(written):
    path, _ = written
    late = hashed(json.loads(path.read_bytes().splitlines()[0]) | {"n": 3})
    path.write_text(json.dumps(late, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n", "utf-8")
    with pytest.raises(InputError, match="line 1 does not follow"):
        verify(path)


def test_whole_last_entries_are_missed_only_with_the_head(written):
    path, heads = written
    edit(path, lambda x: x[:3])
    assert verify(path) == 3
    with pytest.raises(InputError, match=f"no line has the head's hash {heads[4][:16]}…: entries after line 3"):
        verify(path, heads[4])
    Journal(path).append("another end")
    with pytest.raises(InputError, match=f"line 4 was added after the head's hash {heads[2][:16]}…"):
        verify(path, heads[2])
    path.write_bytes(b"")
    assert verify(path) == 0
    with pytest.raises(InputError, match="entries after line 0"):
        verify(path, heads[4])


@pytest.mark.parametrize("value", [float("nan"), [1, {"a": float("inf")}], (1, 2), {1: 2}, {"a", "b"}, b"x", "\ud800",
                                   object()], ids=lambda v: type(v).__name__)
def test_what_json_cannot_hold_is_refused_and_nothing_written(written, value):
    path, heads = written
    journal, before = Journal(path), path.read_bytes()
    with pytest.raises(InputError, match=r"^'rejected': update=.* is no JSON value$"):
        journal.append("rejected", update=value)
    with pytest.raises(InputError, match="'hash' is a name that the journal uses itself"):
        journal.append("rejected", hash="0")
    assert path.read_bytes() == before
    assert journal.head == heads[-1]


def test_a_second_writer_is_noticed(written):
    path, _ = written
    first, second = Journal(path), Journal(path)
    first.append("mine")
    with pytest.raises(InputError, match="was changed by somebody else"):
        second.append("yours")
    assert verify(path, first.head) == 6


def test_a_full_disk_leaves_the_journal_whole(written, monkeypatch):
    path, heads = written
    journal = Journal(path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match=r"cannot write .*: no space left on the disk"):
            journal.append("lost")
    assert verify(path, heads[-1]) == 5
    assert verify(path, journal.append("found")) == 6


def test_a_journal_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.jsonl: no such file"):
        verify(tmp_path / "none.jsonl")
