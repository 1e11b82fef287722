"""Addresses in object stores: a real S3 server over the loopback, ``memory://``, and servers that misbehave."""

import importlib
import json
import logging
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, ClassVar

import fsspec
import pytest

from rlm_dspy.corpus import background, object_reading, object_stores, read
from rlm_dspy.corpus.disk_cache import is_turned_off
from rlm_dspy.errors import CorpusError
from rlm_dspy.report.json_output import shown_name
from warm import warm_python

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLE"


class Requests(logging.Handler):
    """The requests that the server answered, as ``GET /bucket/key``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if '"' in line and "HTTP/" in line:
            self.seen.append(line.partition('"')[2].partition(" HTTP/")[0].split("m")[-1].strip())

    def fetched(self) -> list[str]:
        return sorted(line for line in self.seen if line.startswith("GET") and "?" not in line)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    moto_server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def requests(server: str) -> Iterator[Requests]:
    logger = logging.getLogger("werkzeug")
    handler, before = Requests(), (logger.level, logger.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    return fsspec.filesystem(
        "s3", key="writer", secret="writers-secret", endpoint_url=server, use_listings_cache=False,
        skip_instance_cache=True,
    )  # fmt: skip


@pytest.fixture
def bucket(server: str, client: Any, requests: Requests, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that puts objects, by key, into an empty bucket named ``papers``."""
    point_to(server, monkeypatch)
    client.call_s3("create_bucket", Bucket="papers")

    def put(objects: dict[str, bytes | str]) -> None:
        for key, data in objects.items():
            body = data.encode() if isinstance(data, str) else data
            client.call_s3("put_object", Bucket="papers", Key=key, Body=body)
        requests.seen.clear()

    yield put
    listed = client.call_s3("list_objects_v2", Bucket="papers").get("Contents", [])
    for one in listed:
        client.call_s3("delete_object", Bucket="papers", Key=one["Key"])
    client.call_s3("delete_bucket", Bucket="papers")


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]

    def put(objects: dict[str, str]) -> None:
        for key, text in objects.items():
            system.pipe_file("/" + key, text.encode())

    yield put
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def zipped(files: dict[str, str]) -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return target.getvalue()


def list_by_command(*args: str) -> list[str]:
    done = subprocess.run([*warm_python(), "-m", "rlm_dspy", "ls", *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def reasons(corpus: Any) -> dict[str, str]:
    return {one.name: one.reason for one in corpus.skipped}


# The rules of a folder


TREE = {
    "a.md": "tea", "sub/b.txt": "milk", "sub/c.log": "noise", ".hidden": "x", ".git/config": "x", ".env": "KEY=1",
    ".gitignore": "*.tmp\nbuild/\n", "sub/.gitignore": "!keep.tmp\n", "x.tmp": "x", "sub/keep.tmp": "kept",
    "build/out.txt": "x", "build/more.txt": "x", "node_modules/m/index.js": "x", "venv/pyvenv.cfg": "x",
    "venv/lib.py": "x", "yarn.lock": "x", "empty.txt": "", "app.min.js": "x",
}  # fmt: skip


def check_tree(corpus: Any) -> None:
    assert corpus.names == ("a.md", "sub/b.txt", "sub/keep.tmp")
    assert reasons(corpus) == {
        ".env": "looks like a secret", ".git/": "hidden", ".gitignore": "hidden", ".hidden": "hidden",
        "sub/.gitignore": "hidden", "x.tmp": "ignored by .gitignore", "build/": "ignored by .gitignore",
        "node_modules/": "installed packages or caches", "venv/": "a virtual environment", "yarn.lock": "a lock file",
        "app.min.js": "minified", "empty.txt": "empty", "sub/c.log": "excluded",
    }  # fmt: skip


def test_objects_are_chosen_by_the_rules_of_a_folder(bucket):
    bucket({f"reports/{name}": text for name, text in TREE.items()} | {"reportsx/no.md": "other prefix"})
    check_tree(read("s3://papers/reports", exclude=["*.log"]))


def test_the_same_rules_hold_for_any_store(memory):
    memory({f"papers/reports/{name}": text for name, text in TREE.items()})
    check_tree(read("memory://papers/reports/", exclude=["*.log"]))


def test_a_folder_on_disk_gives_the_same(tmp_path):
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".git" / "config").unlink()  # or it would be a repository
    check_tree(read(tmp_path, exclude=["*.log"]))


def test_include_hidden_secrets_and_ignored_files_follow_the_options(memory):
    memory({f"papers/{name}": text for name, text in TREE.items()})
    assert read("memory://papers", include=["*.md"]).names == ("a.md",)
    assert {".hidden", ".gitignore"} <= set(read("memory://papers", hidden=True).names)
    assert ".env" in read("memory://papers", secrets=True).names
    assert {"x.tmp", "build/out.txt"} <= set(read("memory://papers", ignore=False).names)


# Single objects, globs, archives


def test_an_object_is_read_by_its_address_whatever_its_name(bucket):
    bucket({"notes/.hidden.md": "tea costs 3 euros", "notes/.env": "KEY=1"})
    corpus = read("s3://papers/notes/.hidden.md")
    assert corpus[".hidden.md"] == "tea costs 3 euros"
    assert shown_name(corpus, ".hidden.md") == "s3://papers/notes/.hidden.md"
    with pytest.raises(CorpusError, match=r"s3://papers/notes/\.env looks like a secret.*secrets=True"):
        read("s3://papers/notes/.env")


def test_an_object_beside_a_folder_of_its_name_is_told(bucket):
    bucket({"a": "one", "a/b": "two", "ab": "three"})
    corpus = read("s3://papers/a")
    assert dict(corpus.items()) == {"a": "one"}
    assert "name s3://papers/a/ too" in reasons(corpus)["a/"]
    assert [str(problem) for problem in corpus.problems if problem.unread]
    assert dict(read("s3://papers/a/").items()) == {"b": "two"}
    assert dict(read("s3://papers").items()) == {"a": "one", "a/b": "two", "ab": "three"}


def test_archives_are_unpacked_and_quoted_by_their_address(bucket):
    bucket({"x.zip": zipped({"in/side.md": "inside"})})
    corpus = read("s3://papers/x.zip")
    assert corpus["x.zip/in/side.md"] == "inside"
    assert shown_name(corpus, "x.zip/in/side.md") == "s3://papers/x.zip/in/side.md"


def test_a_glob_reads_what_matches_below_it(bucket):
    bucket({"logs/2024/a.md": "one", "logs/2025/a.md": "two", "logs/2025/b.txt": "three"})
    assert read("s3://papers/logs/*/a.md").names == ("logs/2024/a.md", "logs/2025/a.md")
    assert read("s3://papers/*/2025/*").names == ("papers/logs/2025/a.md", "papers/logs/2025/b.txt")


def test_several_addresses_are_told_apart_and_read_once(memory, tmp_path):
    memory({"one/docs/a.md": "1", "two/docs/a.md": "2"})
    (tmp_path / "a.md").write_text("3")
    corpus = read(["memory://one/docs", "memory://two/docs", "memory://one", str(tmp_path / "a.md")])
    assert sorted(text for _, text in corpus.items()) == ["1", "2", "3"]
    assert len(corpus) == 3


# Only what changed is fetched


def test_a_second_reading_fetches_only_what_changed(bucket, requests):
    bucket({f"r/{number}.txt": f"text {number}" for number in range(20)})
    assert len(read("s3://papers/r")) == 20
    assert len(requests.fetched()) == 20
    requests.seen.clear()
    assert len(read("s3://papers/r")) == 20
    assert requests.fetched() == []
    assert len(requests.seen) <= 3, requests.seen
    bucket({"r/7.txt": "changed", "r/20.txt": "new"})
    assert read("s3://papers/r")["7.txt"] == "changed"
    assert requests.fetched() == ["GET /papers/r/20.txt", "GET /papers/r/7.txt"]


def test_nothing_is_kept_if_the_cache_is_off(bucket, requests, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_NO_CACHE", "1")
    bucket({"r/a.txt": "text"})
    read("s3://papers/r")
    read("s3://papers/r")
    assert len(requests.fetched()) == 2


def test_a_damaged_cache_costs_only_time(bucket, requests, tmp_path, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path))
    bucket({"r/a.txt": "x" * 100_000})
    read("s3://papers/r")
    (stored,) = tmp_path.glob("objects/**/*.val")
    stored.write_bytes(b"y" * 100_032)
    assert read("s3://papers/r")["a.txt"] == "x" * 100_000
    assert stored.parent.parent.parent.stat().st_mode & 0o077 == 0


# Limits


def test_the_number_and_sizes_of_objects_are_limited(memory):
    memory({f"b/{number}.txt": "x" * 10 for number in range(5)} | {"b/big.txt": "x" * 2000})
    corpus = read("memory://b", max_file_bytes=1000)
    assert len(corpus) == 5
    assert "max_file_bytes raises it" in reasons(corpus)["big.txt"]
    corpus = read("memory://b", max_files=2)
    assert len(corpus) == 2
    assert [one.reason for one in corpus.skipped] == [
        "beyond the limit of 2 files (max_files raises it), as is what follows it in memory://b/"
    ]
    corpus = read("memory://b", max_bytes=25)
    assert len(corpus) == 3
    assert "max_bytes raises it" in next(iter(reasons(corpus).values()))


def test_a_text_beyond_one_value_is_read_in_parts(memory, monkeypatch):
    monkeypatch.setattr(object_reading, "MAX_VALUE_BYTES", 1000)
    monkeypatch.setattr("rlm_dspy.corpus.collecting.MAX_VALUE_BYTES", 1000)
    monkeypatch.setattr("rlm_dspy.corpus.collecting.PART_BYTES", 700)
    memory({"b/app.log": "a line of ten\n" * 100})
    corpus = read("memory://b")
    assert corpus.names == ("app.log/part-1", "app.log/part-2")
    assert shown_name(corpus, "app.log/part-1") == "memory://b/app.log/part-1"


class Store(BaseHTTPRequestHandler):
    """An S3 server that never ends its lists, and refuses keys."""

    mode: ClassVar[str] = "endless"
    lists: ClassVar[int] = 0
    over: ClassVar[threading.Event]

    def do_HEAD(self) -> None:
        self.send_response({"refusing": 403, "listing refused": 200}.get(self.mode, 404))
        self.send_header("Content-Length", "2")
        self.end_headers()

    def do_GET(self) -> None:
        if self.mode == "mute" or (self.mode == "stalling" and Store.lists == 1 and "list-type" in self.path):
            self.over.wait(10)
        if self.mode == "refusing" or (self.mode == "listing refused" and "list-type" in self.path):
            code, body = (
                403,
                (
                    "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature of AKIAIOSFODNN7EXAMPLE with "
                    f"{SECRET} does not match https://ada:hunter2@box/x?X-Amz-Signature=abcdef</Message></Error>"
                ),
            )
        elif "list-type" in self.path:
            number = Store.lists
            Store.lists += 1
            rows = "".join(
                f"<Contents><Key>r/{number:06}-{at:03}.txt</Key><ETag>e</ETag><Size>2</Size></Contents>"
                for at in range(1000)
            )
            code, body = (
                200,
                (
                    "<ListBucketResult><IsTruncated>true</IsTruncated>"
                    f"<NextContinuationToken>{number}</NextContinuationToken>{rows}</ListBucketResult>"
                ),
            )
        else:
            code, body = 200, "ok"
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Store]]:
    pytest.importorskip("s3fs")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Store, "lists", 0)
    monkeypatch.setattr(Store, "mode", "endless")
    monkeypatch.setattr(Store, "over", threading.Event(), raising=False)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    point_to(f"http://127.0.0.1:{running.server_port}", monkeypatch)
    yield Store
    Store.over.set()
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_bucket_without_end_is_one_warning_with_the_flag(strange):
    lines = list_by_command("s3://huge/r/", "--max-files", "1500", "--include", "*-00[01].txt")
    assert strange.lists == 2
    (skipped,) = (line for line in lines if line.startswith("skipped"))
    assert "beyond the limit of 1,500 files (--max-files raises it), as is what follows it in s3://huge/r/" in skipped


def test_a_listing_that_takes_too_long_is_read_as_far_as_it_came(strange, monkeypatch):
    strange.mode = "stalling"
    monkeypatch.setattr(object_reading, "LISTING_SECONDS", 1.5)
    corpus = read("s3://huge/r/", include=["000000-00?.txt"])
    strange.over.set()
    assert len(corpus) == 10
    (problem,) = corpus.problems
    assert problem.name == "s3://huge/r/"
    assert "only 1,000 objects listed in 1.5 s" in problem.reason


def test_eight_objects_are_fetched_at_once_and_in_order():
    together = threading.Barrier(background.AT_ONCE)

    def call(number: int) -> int:
        together.wait(10)
        return number

    calls = background.calls_in_order(iter(range(16)), call, seconds_for=lambda _: 10.0, bytes_for=lambda _: 1)
    assert [result() for _, result in calls] == list(range(16))


def test_large_objects_are_fetched_one_after_the_other():
    running: list[int] = []

    def call(number: int) -> int:
        running.append(number)
        assert len(running) == 1
        running.remove(number)
        return number

    size = background.MAX_BYTES_AT_ONCE
    calls = background.calls_in_order(iter(range(20)), call, seconds_for=lambda _: 10.0, bytes_for=lambda _: size)
    assert [result() for _, result in calls] == list(range(20))


# Errors


def test_refused_credentials_are_one_error_without_secrets(strange):
    strange.mode = "refusing"
    for address in ("s3://papers/r/", "s3://papers/r"):
        with pytest.raises(CorpusError, match=r"s3://papers/r/? cannot be read: .*set AWS_ACCESS_KEY_ID") as caught:
            read(address)
        for hidden in (SECRET, "AKIA", "hunter2", "abcdef"):
            assert hidden not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_object_is_read_without_the_right_to_list(strange):
    strange.mode = "listing refused"
    assert dict(read("s3://papers/r/a.txt").items()) == {"a.txt": "ok"}


def test_no_credentials_are_one_error(monkeypatch):
    pytest.importorskip("s3fs")
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CorpusError, match=r"cannot be read: .*redentials.*AWS_PROFILE"):
        read("s3://papers/r/")


def test_a_missing_bucket_and_an_empty_prefix_are_named(bucket):
    bucket({"a.txt": "x"})
    with pytest.raises(CorpusError, match=r"^s3://nothing-here/: no such bucket"):
        read("s3://nothing-here")
    with pytest.raises(CorpusError, match=r"^s3://papers/none: no such object or folder"):
        read("s3://papers/none")


def test_a_mute_store_is_left_after_a_while(strange, monkeypatch):
    strange.mode = "mute"
    monkeypatch.setattr(object_reading, "LISTING_SECONDS", 0.3)
    with pytest.raises(CorpusError, match=r"s3://huge/r/ cannot be read: no list of it came in 0\.3 s"):
        read("s3://huge/r/")


def test_objects_that_vanish_after_the_listing_are_skipped(memory, monkeypatch):
    memory({"b/a.txt": "one", "b/b.txt": "two"})
    system = fsspec.filesystem("memory")
    real = object_stores.ObjectStore.fetch

    def fetch(self: Any, one: Any) -> bytes:
        if one.name == "b.txt":
            del system.store["/b/b.txt"]
        return real(self, one)

    monkeypatch.setattr(object_stores.ObjectStore, "fetch", fetch)
    assert reasons(read("memory://b")) == {"b.txt": "it was deleted after the listing"}


def test_objects_that_take_too_long_are_skipped_and_a_dead_store_is_left(memory, monkeypatch):
    memory({f"b/{number:02}.txt": "x" for number in range(40)} | {"c/a.txt": "x"})
    monkeypatch.setattr(object_stores, "OBJECT_SECONDS", 0.05)
    over = threading.Event()

    def fetch(self: Any, one: Any) -> bytes:
        if one.name != "00.txt":
            over.wait(5)
        return b"text"

    monkeypatch.setattr(object_stores.ObjectStore, "fetch", fetch)
    corpus = read("memory://b")
    over.set()
    assert corpus.names == ("00.txt",)
    told = list(reasons(corpus).values())
    assert len(told) == background.AT_ONCE + 1
    assert "took more than 0.05 s" in told[0]
    assert "as is what follows it in memory://b/" in told[-1]


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("gcs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_package_is_named(protocol, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, protocol, raising=False)
    with pytest.raises(CorpusError, match=rf"^{protocol}://b/x: to read it, pip install {package}$"):
        read(f"{protocol}://b/x")


# Hostile names and addresses


def test_hostile_names_are_skipped_or_escaped(bucket):
    bucket(
        {
            "r/../up.txt": "x", "r//twice.txt": "x", "r/a\x1b[2J.txt": "control", "r/a\\x1b[2J.txt": "the same name",
            "r/good.txt?versionId=1": "x", "r/good.txt": "good", "r/folder/": "", "r/a::b.txt": "colons",
            "r/simplecache::s3:": "chain",
        }
    )  # fmt: skip
    corpus = read("s3://papers/r")
    assert "good.txt" in corpus
    assert all(name.isprintable() and ".." not in name for name in corpus.names)
    assert sorted(corpus[name] for name in corpus) == ["chain", "colons", "control", "good", "the same name"]
    assert set(reasons(corpus)) == {"../up.txt", "/twice.txt", "good.txt?versionId=1"}


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd", "simplecache::s3://b/k", "zip://a::s3://b/k", "ftp://h/x", "local:///etc", "dir::s3://b",
        "reference://x", "github://o:r@/x", "sftp://ada:hunter2@h/x", "s3:://b",
    ],
)  # fmt: skip
def test_other_kinds_of_addresses_are_refused(address):
    with pytest.raises(CorpusError, match=r"only those of s3://, gs://, az:// and https:// are read") as caught:
        read(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
        ("s3://a b/key", "names no bucket"),
        ("s3://AKIAIOSFODNN7EXAMPLE:hunter2-secret@bucket/key", "without credentials.*AWS_PROFILE"),
        ("abfs://container@evil.example/key", "without credentials or an account"),
    ],
)
def test_an_address_names_a_bucket_and_no_credentials(address, why):
    with pytest.raises(CorpusError, match=why) as caught:
        read(address)
    assert "hunter2" not in str(caught.value)


def test_an_answer_quotes_an_address_and_a_line(bucket):
    bucket({"r/a.md": "# Prices\n\nThe price of tea is 3 euros.\n"})
    command = [*warm_python(), "-m", "rlm_dspy", "ask", "What is the price of tea?", "s3://papers/r", "-m", "offline"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    row = json.loads(done.stdout)["evidence"][0]
    assert (row["path"], row["line"]) == ("s3://papers/r/a.md", 3)


def test_the_command_lists_and_quotes_addresses(bucket):
    bucket({"r/sub/a.md": "tea"})
    lines = list_by_command("s3://papers/r")
    assert [line for line in lines if line.endswith(" s3://papers/r/sub/a.md")], lines


@pytest.mark.parametrize(("value", "off"), [("", False), ("0", False), ("false", False), ("No", False), ("1", True)])
def test_the_variable_turns_the_caches_off_unless_it_says_no(monkeypatch, value, off):
    monkeypatch.setenv("RLM_DSPY_NO_CACHE", value)
    assert is_turned_off() is off
