"""The checksummed cache, against a real HTTP server on the loopback."""

import hashlib
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from suite.base.errors import InputError
from suite.core.data import Dataset, Provenance, Split
from suite.core.space import Space
from suite.datasets import cache
from suite.datasets.cache import RemoteFile, Unavailable

GOOD = b"Glucose,Outcome\n148,1\n85,0\n"
SHA = hashlib.sha256(GOOD).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hits.append(self.path)
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/hang":
            time.sleep(1)
            return
        body = b"<html>log in first</html>" if self.path == "/wrong" else GOOD
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (100 if self.path == "/truncated" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.hits = []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MEDSEC_DATA", raising=False)
    return tmp_path / "cache"


def remote(url=""):
    return RemoteFile("tabular/t.csv", f"sha256:{SHA}", url)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def leftovers(home):
    return [p.name for p in home.rglob("*") if p.is_file()]


def test_a_file_is_downloaded_once(server, home):
    file = remote(server.url + "/good")
    first = cache.locate(file)
    assert first == home / "tabular/t.csv"
    assert first.read_bytes() == GOOD
    assert cache.locate(file) == first
    assert server.hits == ["/good"]
    assert cache.origin(first) == "the download cache"


def test_wrong_bytes_from_the_server_are_refused_and_not_kept(server, home):
    with pytest.raises(InputError) as error:
        cache.locate(remote(server.url + "/wrong"))
    assert not isinstance(error.value, Unavailable)
    text = one_line(error)
    assert SHA[:12] in text
    assert hashlib.sha256(b"<html>log in first</html>").hexdigest()[:12] in text
    assert "t.csv" in text
    assert leftovers(home) == []


@pytest.mark.parametrize(("path", "reason"), [("/truncated", "before the file was complete"), ("/gone", "404"),
                                              ("/hang", "in time")])
def test_a_failing_download_is_one_line_and_leaves_nothing(server, home, monkeypatch, path, reason):
    monkeypatch.setattr(cache, "TIMEOUT", 0.2)
    with pytest.raises(Unavailable, match=reason) as error:
        cache.locate(remote(server.url + path))
    one_line(error)
    assert leftovers(home) == []


def test_a_closed_port_is_one_line(server, home):
    url = server.url + "/good"
    server.shutdown()
    server.server_close()
    with pytest.raises(Unavailable, match="cannot be reached") as error:
        cache.locate(remote(url))
    assert "MEDSEC_DATA" in one_line(error)


def test_half_a_file_in_the_cache_is_never_used(server, home):
    half = home / "tabular/t.csv"
    half.parent.mkdir(parents=True)
    half.write_bytes(GOOD[:10])
    with pytest.raises(InputError, match="wrong checksum") as error:
        cache.locate(remote())
    assert not isinstance(error.value, Unavailable)
    assert cache.locate(remote(server.url + "/good")).read_bytes() == GOOD
    assert server.hits == ["/good"]


def test_a_file_may_be_known_by_its_md5_only(server, home):
    file = RemoteFile("tabular/t.csv", f"md5:{hashlib.md5(GOOD).hexdigest()}", server.url + "/good")
    assert cache.locate(file).read_bytes() == GOOD
    (home / "tabular/t.csv").write_bytes(b"x")
    with pytest.raises(InputError, match=f"expected md5 .*found {hashlib.md5(b'x').hexdigest()[:12]}"):
        cache.locate(replace(file, url=""))
    with pytest.raises(InputError, match="expected md5"):
        cache.locate(replace(file, url=server.url + "/wrong"))


def test_a_file_with_a_forged_md5_is_not_the_one_that_was_first_seen(server, home, monkeypatch):
    file = RemoteFile("tabular/t.csv", f"md5:{hashlib.md5(GOOD).hexdigest()}", server.url + "/good")
    where = cache.locate(file)
    where.write_bytes(b"forged")
    md5, digest = file.digest.removeprefix("md5:"), cache._digest
    monkeypatch.setattr(cache, "_digest", lambda path, how: md5 if how == "md5" else digest(path, how))
    with pytest.raises(InputError, match=r"its SHA-256 was .* replaced by one with the same MD5"):
        cache.locate(replace(file, url=""))
    where.write_bytes(GOOD)
    assert cache.locate(replace(file, url="")) == where


def test_a_dataset_of_two_files_is_fetched_and_verified_as_two(server, home):
    pair = [RemoteFile(f"tabular/{name}", f"sha256:{SHA}", f"{server.url}/{name}") for name in ("a.csv", "b.csv")]
    both = cache.reads(*pair)(builder_of())
    assert [r.state for r in cache.verify({"both": both})] == ["missing", "missing"]
    assert cache.fetch("both", both) == home / "tabular/a.csv"
    assert sorted(server.hits) == ["/a.csv", "/b.csv"]
    assert [r.state for r in cache.verify({"both": both})] == ["ok", "ok"]


def test_a_stray_temporary_file_is_not_mistaken_for_the_file(home):
    (home / "tabular").mkdir(parents=True)
    (home / "tabular/tmpab12cd").write_bytes(GOOD)
    with pytest.raises(Unavailable):
        cache.locate(remote())


def test_the_given_path_wins_over_the_data_folder_and_the_data_folder_over_the_server(server, tmp_path, monkeypatch):
    (tmp_path / "data/tabular").mkdir(parents=True)
    (tmp_path / "data/tabular/t.csv").write_bytes(GOOD)
    (tmp_path / "mine.csv").write_bytes(GOOD)
    monkeypatch.setenv("MEDSEC_DATA", str(tmp_path / "data"))
    file = remote(server.url + "/good")
    assert cache.locate(file, tmp_path / "mine.csv") == tmp_path / "mine.csv"
    found = cache.locate(file)
    assert found == tmp_path / "data/tabular/t.csv"
    assert cache.origin(found) == "$MEDSEC_DATA"
    assert server.hits == []


def test_a_damaged_local_file_names_both_checksums_and_is_not_papered_over_by_a_download(server, tmp_path, monkeypatch):
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular/t.csv").write_bytes(b"x")
    monkeypatch.setenv("MEDSEC_DATA", str(tmp_path))
    for path in (None, tmp_path / "tabular/t.csv"):
        with pytest.raises(InputError) as error:
            cache.locate(remote(server.url + "/good"), path)
        assert not isinstance(error.value, Unavailable)
        assert SHA[:12] in one_line(error)
        assert hashlib.sha256(b"x").hexdigest()[:12] in str(error.value)
    assert server.hits == []


def test_a_missing_path_or_data_folder_is_the_users_error(tmp_path, monkeypatch):
    for bad in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(InputError, match=bad.name) as error:
            cache.locate(remote(), bad)
        assert not isinstance(error.value, Unavailable)
    monkeypatch.setenv("MEDSEC_DATA", str(tmp_path / "typo"))
    with pytest.raises(InputError, match="typo: no such folder") as error:
        cache.locate(remote())
    assert not isinstance(error.value, Unavailable)


def builder_of(file=None, synthetic=False, error=None):
    def build(path=None, seed=0):
        if error:
            raise error
        if file:
            cache.locate(file, path)
        rows = Split(np.zeros((2, 1), np.float32), np.array([0, 1]), Space(0, 1), ("a", "b"), np.arange(2))
        return Dataset("t", rows, rows, rows, Provenance("t", "s", "l", SHA, 2, synthetic, "coded"),
                       card={"read from": "$MEDSEC_DATA"})

    return cache.reads(file)(build) if file else build


def test_fetch_and_verify(server, home):
    good, none = builder_of(remote(server.url + "/good")), builder_of()
    bad = builder_of(RemoteFile("tabular/bad.csv", f"sha256:{SHA}"))
    (home / "tabular").mkdir(parents=True)
    assert [r.state for r in cache.verify({"good": good, "none": none})] == ["missing", "ok"]
    assert server.hits == []
    assert cache.fetch("none", none) is None
    assert cache.fetch("good", good) == home / "tabular/t.csv"
    assert cache.verify({"good": good})[0].state == "ok"
    with pytest.raises(Unavailable, match=r"^bad: bad\.csv"):
        cache.fetch("bad", bad)
    assert cache.fetch("bad", bad, url=server.url + "/good").read_bytes() == GOOD


def test_verify_reports_damage_without_raising(tmp_path, monkeypatch):
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular/t.csv").write_bytes(b"x")
    monkeypatch.setenv("MEDSEC_DATA", str(tmp_path))
    assert "wrong checksum" in cache.verify({"t": builder_of(remote())})[0].state


def test_first_available_says_what_it_took_and_why():
    _, reason = cache.first_available({"real": builder_of(), "fake": builder_of(synthetic=True)})
    assert reason == "real: real data from $MEDSEC_DATA"
    dataset, reason = cache.first_available({"real": builder_of(remote()), "fake": builder_of(synthetic=True)})
    assert reason.startswith("fake: SYNTHETIC, because real is not available: t.csv is not on this machine")
    assert dataset.provenance.note == f"{reason}; coded"


def test_first_available_takes_a_builder_that_does_not_say_where_it_read():
    silent = builder_of()
    _, reason = cache.first_available({"mine.py:build": lambda: replace(silent(), card={})})
    assert reason == "mine.py:build: data"


def test_first_available_never_passes_over_wrong_bytes():
    with pytest.raises(InputError, match="checksum"):
        cache.first_available({"real": builder_of(error=InputError("checksum")), "fake": builder_of(synthetic=True)})
    with pytest.raises(Unavailable, match="not available"):
        cache.first_available({"real": builder_of(remote())})


@pytest.mark.parametrize("place", [-1, 12, 40])
def test_a_checksum_is_compared_to_its_last_character(tmp_path, place):
    file = tmp_path / "pima.csv"
    file.write_bytes(GOOD)
    assert cache.locate(RemoteFile("pima.csv", f"sha256:{SHA}"), file) == file
    other = list(SHA)
    other[place] = "0" if other[place] != "0" else "1"
    with pytest.raises(InputError, match="wrong checksum"):
        cache.locate(RemoteFile("pima.csv", f"sha256:{''.join(other)}"), file)
