"""Every limit has its effect and its sentence."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlm_dspy.errors import ConfigurationError, SandboxError
from rlm_dspy.sandbox import Sandbox, checks, pool, report, zygote_host


def test_a_cell_that_runs_too_long_is_told_so(sandbox):
    done = sandbox.run("print('begun')\nwhile True: pass", timeout=1.5)
    assert done.timed_out
    assert done.stdout == "begun\n"
    assert "longer than 1.5 s" in done.text
    assert 'File "<cell 1>", line 2' in done.exception


def test_time_in_host_functions_is_not_charged():
    with Sandbox(tools={"slow": lambda: time.sleep(0.4)}, timeout=0.25) as sandbox:
        done = sandbox.run("slow()\nslow()\nprint('end')")
    assert done.stdout == "end\n"
    assert done.seconds < 0.25


def test_processor_time_is_limited_too(sandbox, monkeypatch):
    monkeypatch.setattr("rlm_dspy.sandbox.interpreter.CPU_FACTOR", 0)
    monkeypatch.setattr("rlm_dspy.sandbox.interpreter.LEAST_CPU", 0.1)
    done = sandbox.run("while True: pass", timeout=20)
    assert done.timed_out
    assert "processor time" in done.text


def test_memory_is_limited_and_the_model_told_how_much():
    with Sandbox(memory_mb=64) as sandbox:
        done = sandbox.run("x = bytearray(100 << 20)")
        assert done.kind == "memory"
        assert "64 MB" in done.text
        assert sandbox.run("x = bytearray(30 << 20); len(x)").value == str(30 << 20)


def test_a_large_context_does_not_count_as_memory():
    with Sandbox(memory_mb=32) as sandbox:
        assert (
            sandbox.run("len(text), text.count('y')", {"text": "xy" * (40 << 20)}).value == f"({80 << 20}, {40 << 20})"
        )


def test_long_output_keeps_its_head_and_tail_and_tells_the_true_length():
    with Sandbox(max_output_chars=1000) as sandbox:
        done = sandbox.run("for i in range(100000): print(i)")
    assert done.truncated
    assert len(done.stdout) <= 1000
    assert done.stdout.startswith("0\n1\n")
    assert done.stdout.endswith("99999\n")
    assert "588,890 characters" in done.stdout


@pytest.mark.parametrize("cap", [1, 10, 99, 100, 101])
def test_even_the_shortest_cap_holds_with_its_marker(cap):
    with Sandbox(max_output_chars=cap) as sandbox:
        done = sandbox.run("print('x' * 10000)\n'y' * 10000")
    assert len(done.stdout) <= cap
    assert len(done.value) <= cap
    assert done.truncated


def test_ten_gigabytes_of_output_cost_no_more_than_the_cap(sandbox):
    done = sandbox.run("s = 'x' * 10**8\nfor _ in range(100): print(s)")
    assert "10,000,000,100 characters" in done.stdout
    assert len(done.stdout) <= 100_000


def test_a_submitted_value_may_be_large_but_not_giant(sandbox):
    assert len(sandbox.run("SUBMIT('x' * (10 << 20))").final["output"]) == 10 << 20
    assert "the limit is" in sandbox.run("SUBMIT('x' * (20 << 20))").exception


def test_threads_are_limited(sandbox):
    code = "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"  # noqa: E501
    assert "the limit is 64" in sandbox.run(code).exception


RAW_THREADS = """
import sys, _thread, time
limits = sys.modules["resource"]
print(limits.getrlimit(limits.RLIMIT_NPROC)[1])
limits.setrlimit(limits.RLIMIT_NPROC, (200, 200))
_thread.stack_size(1 << 16)
for _ in range(1000): _thread.start_new_thread(time.sleep, (60,))
"""


def test_threads_made_past_all_politeness_are_counted_by_the_kernel():
    if report().get("namespaces") is not True:
        pytest.skip("only a user namespace has a count of its own")
    with Sandbox(checkpoint="never") as sandbox:
        done = sandbox.run(RAW_THREADS)
    assert 0 < int(done.stdout) <= pool.MAX_TASKS
    assert "can't start new thread" in done.exception


@pytest.mark.parametrize("without", [(), ("namespaces",)])
def test_threads_made_past_all_politeness_are_counted_by_the_host(without):
    code = "import _thread, time\nfor _ in range(7_000): _thread.start_new_thread(time.sleep, (60,))"
    with Sandbox(checkpoint="never", timeout=10) as sandbox:
        sandbox._setting = zygote_host.ZygoteSettings(without=without)
        assert "can't start new thread" in sandbox.run(code).exception
        threads = len(list(Path(f"/proc/{sandbox._link.active.pid}/task").iterdir()))
        assert 64 < threads <= zygote_host.MOST_THREADS


def test_a_sleeping_copy_is_stopped_so_that_nothing_patched_runs_in_it(sandbox):
    sandbox.run("x = 1")
    status = Path(f"/proc/{sandbox._link.standby.pid}/stat")
    end = time.monotonic() + 2  # it stops as soon as it is scheduled
    while (state := status.read_text().rpartition(")")[2].split()[0]) != "T" and time.monotonic() < end:
        time.sleep(0.01)
    assert state == "T"
    assert "crashed" in sandbox.run("import sys; sys.modules['os']._exit(1)").exception
    assert sandbox.run("x").value == "1"


def test_too_many_names_are_remarked_on(sandbox):
    assert "names" in sandbox.run("for i in range(11000): globals()[f'n{i}'] = i").note


def test_recursion_ends_in_an_error_the_model_can_read(sandbox):
    done = sandbox.run("def f(n): return f(n + 1)\nf(0)")
    assert "RecursionError" in done.exception
    assert len(done.exception) < 3000


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"timeout": 3e6},
        {"max_output_chars": 4_000_000},
        {"memory_mb": 1},
        {"max_output_chars": 0},
        {"isolation": "weak"},
        {"checkpoint": "sometimes"},
        {"tools": {"a b": print}},
        {"tools": {"SUBMIT": print}},
    ],
)
def test_senseless_settings_are_refused_at_once(options):
    with pytest.raises(ConfigurationError):
        Sandbox(**options)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), 3e6])
def test_a_senseless_time_for_one_cell_is_refused(sandbox, timeout):
    with pytest.raises(ConfigurationError, match="timeout"):
        sandbox.run("1", timeout=timeout)


def test_the_longest_output_of_the_widest_characters_fits_beside_the_largest_submit():
    most = checks.MAX_OUTPUT
    with Sandbox(max_output_chars=most, timeout=60) as sandbox:
        done = sandbox.run(
            f"import sys\nprint(chr(0x1f600) * {most - 1})\nprint(chr(0x1f600) * {most - 1}, file=sys.stderr)\n"
            "SUBMIT('x' * (15 << 20))"
        )
        assert (done.kind, done.has_final, len(done.stdout), len(done.stderr)) == ("ok", True, most, most)


def test_a_tool_and_a_variable_cannot_share_a_name():
    with Sandbox(tools={"a": print}) as sandbox, pytest.raises(ConfigurationError, match="'a'"):
        sandbox.run("1", {"a": 1})


def test_a_sandbox_that_was_shut_down_says_so(sandbox):
    sandbox.shutdown()
    sandbox.shutdown()
    with pytest.raises(SandboxError, match="shut down"):
        sandbox.run("1")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("open('/etc/passwd', 'r')", "not allowed"),
        ("import os", "not allowed"),
        ("import subprocess", "not allowed"),
        ("x = input('?')", "not allowed"),
        ("if True:\n    import os", "not allowed"),
        ("f = open\nf('/etc/passwd')", "not allowed"),
        ("exec('import os')", "not allowed"),
        ("breakpoint()", "not allowed"),
    ],
)
def test_what_cannot_work_is_told_in_words(sandbox, code, told):
    assert told in sandbox.run(code).exception.lower()


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("def open(name): return name\nx = open('own')\nx", "'own'"),
        ("import sys, types\nsys.modules['mine'] = types.ModuleType('mine')\nimport mine\nmine.__name__", "'mine'"),
    ],
)
def test_a_cell_may_use_what_it_makes_itself(sandbox, code, value):
    seen = sandbox.run(code)
    assert (seen.exception, seen.value) == (None, value)


@pytest.fixture(params=["cold", "warm"])
def zygote_age(request):
    """A zygote just born, or one that had the time to import ahead."""
    zygote_host.close_all()
    if request.param == "warm":
        with Sandbox():
            time.sleep(1)
    return request.param


def test_harmless_imports_work(zygote_age, sandbox):
    from rlm_dspy.sandbox.worker import modules

    names = sorted(modules.ALLOWED - {"re2", "asyncio"})
    failed = sandbox.run(
        "failed = []\n"
        + "\n".join(
            f"try:\n import {name}\nexcept ImportError as e: failed.append(({name!r}, str(e)))" for name in names
        )
        + "\nfailed"
    )
    assert failed.value == "[]"
    used = sandbox.run(
        "import asyncio, hashlib, csv, io, difflib, zlib, uuid, decimal, xml.etree.ElementTree as E, html, email.message\n"  # noqa: E501
        "import datetime, statistics, fractions, secrets, logging, urllib.parse, tomllib, lzma, bz2, gzip, pickle\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "assert hashlib.sha256(b'x').hexdigest()[:4] == '2d71'\n"
        "assert datetime.datetime.strptime('2020-01-02', '%Y-%m-%d').year == 2020\n"
        "assert E.fromstring('<a><b/></a>')[0].tag == 'b'\n"
        "assert list(ThreadPoolExecutor(4).map(str, range(3))) == ['0', '1', '2']\n"
        "assert 'straße'.encode('cp1252') and 'x'.encode('idna') and 'a'.encode('utf-16')\n"
        "assert zlib.decompress(zlib.compress(b'x')) == b'x' and lzma.decompress(lzma.compress(b'x')) == b'x'\n"
        "logging.warning('seen')\nasync def f(): return 5\nprint(await f())"
    )
    assert used.exception is None, used.text
    assert used.stdout == "5\n"


def test_a_host_path_in_a_tools_error_does_not_reach_the_model():
    def tool():
        raise ValueError("cannot read /root/secret/place/data.txt now")

    with Sandbox(tools={"tool": tool}) as sandbox:
        done = sandbox.run("tool()")
    assert "ValueError: cannot read …/data.txt now" in done.exception
    assert "secret" not in done.text


def test_a_cell_deaf_to_interrupts_is_killed_after_a_short_grace(sandbox):
    before = time.monotonic()
    done = sandbox.run("sum(range(10**12))", timeout=0.2)
    assert "did not stop when interrupted, and was killed" in done.exception
    assert time.monotonic() - before < 20


FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))
from rlm_dspy.sandbox import Sandbox
with Sandbox(timeout=10) as sandbox:
    print(sandbox.run("x = len(text)\\nx", {{"text": "a" * 100_000}}).value)
    sandbox.run("import sys; sys.modules['posix']._exit(1)")
    print(sandbox.run("x").value)
"""


@pytest.mark.parametrize("most", [48, 64, 128, 256])
def test_a_host_of_few_descriptors_has_a_sandbox(most):
    command = [sys.executable, "-c", FEW.format(most=most)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "100000\n100000\n"


def test_a_host_of_too_few_descriptors_is_told_how_many_it_takes():
    done = subprocess.run([sys.executable, "-c", FEW.format(most=40)], capture_output=True, text=True, check=False)
    assert "SandboxUnavailableError" in done.stderr or "InterpreterUnavailableError" in done.stderr
    assert "needs 48 descriptors, and this process may have 40" in done.stderr


SMALL_FILES = """
import resource, sys
from rlm_dspy.corpus import read
from rlm_dspy.sandbox import Sandbox
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(10_000)
try:
    Sandbox(timeout=10).run("1")
except Exception as error:
    print(error)
limit(resource.RLIM_INFINITY)
with Sandbox(timeout=10) as sandbox:
    sandbox.run("1")
    limit(10_000)
    try:
        sandbox.run("len(text)", {"text": "a" * 100_000})
    except Exception as error:
        print(error)
    print(read([sys.argv[1]]).skipped[0].reason)
"""


def test_a_host_that_may_write_small_files_only_is_told_the_limit_to_raise(tmp_path):
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "b.md").write_text("line\n" * 10_000)
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = "File too large; raise this process's limit on the size of files (ulimit -f)"
    assert done.stdout.splitlines() == [
        f"the sandbox could not be started: {told}",
        f"variable 'text' cannot be handed to the sandbox: {told}",
        f"it cannot be held in memory: {told}",
    ]
