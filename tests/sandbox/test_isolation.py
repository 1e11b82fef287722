"""Each layer is there, does its part, and is never silently missing."""

import os
import platform
import struct
import subprocess
import sys
from functools import lru_cache

import dspy
import pytest

from rlm_dspy.errors import ConfigurationError, SandboxUnavailableError
from rlm_dspy.rlm.module import chosen_factory
from rlm_dspy.sandbox import cell, default_factory, policy, report, selftest, zygote_host
from rlm_dspy.sandbox.interpreter import Sandbox
from rlm_dspy.sandbox.worker import bpf, syscalls

RULES = {machine: bpf.Filter(machine, (3, 40), (3,)) for machine in (syscalls.X86_64, syscalls.AARCH64)}


@lru_cache
def assembled(rules):
    """Return the filter's instructions."""
    return [*struct.iter_unpack("<HBBI", bpf.assemble_filter(rules))]


def decide(rules, number, *arguments, audit=None):
    """Run the assembled filter as the kernel would."""
    code = assembled(rules)
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit or syscalls.AUDIT_ARCH[rules.machine], 0, *padded)
    at, value = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == bpf.LOAD:
            (value,) = struct.unpack_from("<I", data, k)
        elif operation == bpf.AND:
            value &= k
        elif operation == bpf.RETURN:
            return k
        else:
            true = {bpf.EQUAL: value == k, bpf.AT_LEAST: value >= k, bpf.ANY_BIT: bool(value & k)}[operation]
            at += yes if true else no


# Numbers from the kernel's own tables, written here independently: (name, x86-64, aarch64).
REFUSED = [
    ("open", 2, None),
    ("openat", 257, 56),
    ("openat2", 437, 437),
    ("socket", 41, 198),
    ("connect", 42, 203),
    ("sendto", 44, 206),
    ("fork", 57, None),
    ("vfork", 58, None),
    ("kill", 62, 129),
    ("tgkill", 234, 131),
    ("unlinkat", 263, 35),
    ("fchmodat", 268, 53),
    ("memfd_create", 319, 279),
    ("ioctl", 16, 29),
    ("dup", 32, 23),
    ("dup3", 292, 24),
    ("setsid", 112, 157),
    ("shmget", 29, 194),
    ("pidfd_open", 434, 434),
    ("pidfd_send_signal", 424, 424),
    ("statx", 332, 291),
    ("readlinkat", 267, 78),
    ("chdir", 80, 49),
    ("mknodat", 259, 33),
    ("seccomp", 317, 277),
    ("landlock_create_ruleset", 444, 444),
    ("setuid", 105, 146),
    ("tkill", 200, 130),
]
KILLED = [
    ("execve", 59, 221),
    ("ptrace", 101, 117),
    ("bpf", 321, 280),
    ("unshare", 272, 97),
    ("mount", 165, 40),
    ("process_vm_readv", 310, 270),
    ("io_uring_setup", 425, 425),
    ("keyctl", 250, 219),
    ("perf_event_open", 298, 241),
]
ALLOWED = [
    ("read", 0, 63),
    ("write", 1, 64),
    ("futex", 202, 98),
    ("munmap", 11, 215),
    ("brk", 12, 214),
    ("exit_group", 231, 94),
    ("clock_gettime", 228, 113),
    ("ppoll", 271, 73),
    ("rt_sigreturn", 15, 139),
    ("getrandom", 318, 278),
    ("close", 3, 57),
]


@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_the_filter_decides_by_number(column):
    rules = list(RULES.values())[column]
    for table, verdict in ((REFUSED, bpf.errno_action()), (KILLED, bpf.KILL), (ALLOWED, bpf.ALLOW)):
        for name, *numbers in table:
            if numbers[column] is not None:
                assert decide(rules, numbers[column]) == verdict, name
    for number in range(1024):
        assert decide(rules, number) in (bpf.ALLOW, bpf.KILL, bpf.ASK_HOST, bpf.errno_action(), bpf.errno_action(38))


@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_the_filter_looks_at_arguments(column):
    rules = list(RULES.values())[column]
    clone, clone3 = (56, 220)[column], 435
    fork, thread = 0x01200011, 0x3D0F00
    assert decide(rules, clone, fork) == bpf.ASK_HOST
    assert decide(rules, clone, thread) == bpf.ASK_HOST
    without_host = bpf.Filter(rules.machine, (3, 40), (3,), fork="refuse")
    assert [decide(without_host, clone, flags) for flags in (fork, thread)] == [bpf.errno_action(), bpf.ALLOW]
    assert decide(rules, clone3) == bpf.errno_action(38)
    for flags in (0x4111, 0x111, 0x10000011, 0x20000011, 0x8011, 0x10011, 0x2011, 0x40000011, 0x10F00 | 0x10000000):
        assert decide(rules, clone, flags) == bpf.errno_action(), hex(flags)
    mmap, mprotect = (9, 222)[column], (10, 226)[column]
    assert decide(rules, mmap, 0, 4096, 3, 0x22) == bpf.ALLOW
    assert decide(rules, mmap, 0, 4096, 1, 0x02, 5) == bpf.ALLOW
    for protection, flags in ((7, 0x22), (5, 0x2), (3, 0x21), (3, 0x122), (0, 0x21), (3, 0x23), (1, 0x01), (1, 0x03)):
        assert decide(rules, mmap, 0, 4096, protection, flags) == bpf.errno_action(), (protection, flags)
    assert decide(rules, mprotect, 0, 4096, 3) == bpf.ALLOW
    for protection in (0, 1, 2, 4, 5, 7, 1 << 24 | 3):
        assert decide(rules, mprotect, 0, 4096, protection) == bpf.errno_action(), protection
    sendmsg, recvmsg, prlimit, fcntl = ((46, 47, 302, 72), (211, 212, 261, 25))[column]
    assert [decide(rules, sendmsg, fd) for fd in (3, 40, 5)] == [bpf.ALLOW, bpf.errno_action(), bpf.errno_action()]
    assert [decide(rules, recvmsg, fd) for fd in (3, 40, 5)] == [bpf.ALLOW, bpf.ALLOW, bpf.errno_action()]
    assert [decide(rules, prlimit, pid) for pid in (0, 1)] == [bpf.ALLOW, bpf.errno_action()]
    assert [decide(rules, fcntl, 5, command) for command in (1030, 1, 3, 4, 0, 8)] == [bpf.ALLOW] * 3 + [
        bpf.errno_action()
    ] * 3


def test_another_architecture_or_the_x32_table_is_killed():
    assert decide(RULES["x86_64"], 0, audit=0x40000003) == bpf.KILL
    assert decide(RULES["x86_64"], 0x40000000) == bpf.KILL
    assert decide(RULES["aarch64"], 63, audit=0xC000003E) == bpf.KILL


def test_no_call_has_two_meanings():
    for column in (0, 1):
        tables = (syscalls.HARMLESS, syscalls.GUARDED, syscalls.FATAL)
        numbers = [row[column] for table in tables for row in table.values() if row[column] is not None]
        assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("system", "machine", "isolation", "backend"),
    [
        ("linux", "x86_64", "strong", "linux"),
        ("linux", "aarch64", "strong", "linux"),
        ("linux", "arm64", "best-effort", "linux"),
        ("linux", "riscv64", "strong", "refuse"),
        ("linux", "riscv64", "best-effort", "linux"),
        ("linux", "x86_64", "none", "plain"),
        ("darwin", "arm64", "strong", "macos"),
        ("darwin", "x86_64", "best-effort", "macos"),
        ("darwin", "arm64", "none", "plain"),
        ("win32", "AMD64", "strong", "wasm"),
        ("win32", "AMD64", "best-effort", "wasm"),
        ("win32", "AMD64", "none", "wasm"),
        ("freebsd14", "amd64", "strong", "wasm"),
        ("freebsd14", "amd64", "none", "plain"),
        ("emscripten", "wasm32", "none", "wasm"),
    ],
)
def test_each_platform_has_its_backend(system, machine, isolation, backend):
    assert policy.choose(system, machine, isolation).backend == backend


@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("linux", "riscv64"), ("darwin", "arm64")])
def test_the_default_is_ours_where_there_is_native_isolation(system, machine, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert default_factory() is Sandbox
    assert chosen_factory(None, None) is Sandbox


@pytest.mark.parametrize("system", ["win32", "freebsd14", "emscripten"])
def test_the_default_is_dspys_with_a_warning_where_there_is_none(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    with pytest.warns(RuntimeWarning, match="no native isolation is known for .*PythonInterpreter"):
        assert default_factory() is dspy.PythonInterpreter
    with pytest.warns(RuntimeWarning):
        assert chosen_factory(None, None) is dspy.PythonInterpreter
    assert chosen_factory(Sandbox, None) is Sandbox


def test_a_sandbox_on_a_platform_without_isolation_points_to_dspys(monkeypatch):
    monkeypatch.setattr(policy, "choose", lambda *a: policy.Choice("wasm", "no native isolation is known for win32"))
    with pytest.raises(SandboxUnavailableError, match=r"interpreter_factory=dspy\.PythonInterpreter"):
        zygote_host.Zygote(zygote_host.ZygoteSettings("strong", ("never", "shared")))


def test_the_package_can_be_imported_where_unix_modules_are_missing():
    code = (
        "import sys\nfor name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'): sys.modules[name] = None\n"
        "import rlm_dspy.sandbox\nprint(rlm_dspy.sandbox.policy.choose('win32', 'AMD64', 'strong').backend)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "wasm\n", done.stderr


FULL = {"seccomp": True, "no_new_privs": True, "landlock": True, "namespaces": True}


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ({}, None),
        ({"landlock": "ENOSYS"}, None),
        ({"namespaces": "EPERM"}, None),
        ({"landlock": "ENOSYS", "namespaces": "EPERM"}, "Landlock or namespaces (ENOSYS, EPERM)"),
        ({"seccomp": "EINVAL"}, "seccomp (EINVAL)"),
        ({"no_new_privs": False}, "no_new_privs (not tried)"),
    ],
)
def test_strong_means_the_filter_and_one_more_layer(change, lacking):
    assert policy.missing_layers({**FULL, **change}) == lacking


def test_every_forbidden_operation_is_refused():
    checks = selftest()
    assert [check for check in checks if not check.refused] == []
    assert len(checks) >= 30


def test_the_self_test_never_runs_without_isolation(monkeypatch):
    monkeypatch.setattr(sys.modules["rlm_dspy.sandbox.selftest"], "Sandbox", None)  # nothing is to be tried
    with pytest.raises(ConfigurationError, match="isolation='none'"):
        selftest("none")


@pytest.mark.parametrize("without", [("landlock",), ("namespaces",), ("fork_control",), ("fork_control", "landlock")])
def test_the_operations_are_refused_without_a_layer_too(without, monkeypatch):
    original = zygote_host.ZygoteSettings
    monkeypatch.setattr(
        zygote_host, "ZygoteSettings", lambda isolation, modules=(): original(isolation, modules, without)
    )
    assert [check for check in selftest("strong") if not check.refused] == []
    with Sandbox() as sandbox:
        sandbox.run("x = 1")
        sandbox.run("import sys; sys.modules['os']._exit(1)")
        assert sandbox.run("'x' in globals()").value == str("fork_control" not in without)


@pytest.mark.parametrize("without", [("seccomp",), ("landlock", "namespaces"), ("privileges",)])
def test_strong_isolation_is_refused_when_it_cannot_be_had(without):
    with pytest.raises(SandboxUnavailableError, match="missing"):
        zygote_host.running_zygote(zygote_host.ZygoteSettings("strong", (), without))


def test_best_effort_goes_on_and_says_so(caplog):
    made = zygote_host.running_zygote(zygote_host.ZygoteSettings("best-effort", (), ("landlock", "namespaces")))
    assert made.report["strong"] is False
    assert "weaker" in caplog.text


def test_no_isolation_still_runs_cells():
    with Sandbox(isolation="none") as sandbox:
        sandbox.run("x = 1")
        sandbox.run("import sys; sys.modules['os']._exit(1)")
        assert sandbox.run("x").value == "1"
    assert report("none")["strong"] is False


def test_the_report_tells_what_is_active():
    told = report()
    assert told["python"] == platform.python_version()
    assert told["strong"] is True
    assert told["missing"] == []


def test_the_seatbelt_profile_denies_first_and_quotes_paths(monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", '/odd "name"')
    text = policy.seatbelt_profile()
    assert text.startswith("(version 1)\n(deny default)")
    assert '(subpath "/odd \\"name\\"")' in text
    assert "(deny network*)" in text
    assert policy.confined_command(["python"])[:2] == ["/usr/bin/sandbox-exec", "-p"]


def test_the_host_approves_only_the_forks_it_granted(sandbox, monkeypatch):
    monkeypatch.setattr(cell, "COPY_SECONDS", 0.5)
    sandbox.run("x = 1")
    before = sandbox._link.zygote.denied
    done = sandbox.run(
        "import sys\nos = sys.modules['os']\nfor _ in range(5):\n try:\n  if os.fork() == 0: os._exit(0)\n"
        " except PermissionError: print('refused')",
        timeout=3,
    )
    assert sandbox._link.zygote.denied > before
    assert done.kind == "error"
    assert sandbox.run("x").value == "1"


def test_a_platform_that_passes_no_credentials_knows_the_process_by_its_report(monkeypatch):
    monkeypatch.setattr(zygote_host, "SCM_CREDENTIALS", -1)  # as on macOS
    zygote = zygote_host.Zygote(zygote_host.ZygoteSettings("none", ()))
    assert zygote.pid > 0
    assert zygote.group == os.getpgid(zygote.pid)
