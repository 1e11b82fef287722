"""The line of ``doctor`` on the platform, for simulated platforms."""

from __future__ import annotations

import pytest

from rlm_dspy.cli.doctor import PlatformFacts, current_platform, platform_line


@pytest.mark.parametrize(
    ("system", "machine", "more", "status", "says"),
    [
        ("linux", "x86_64", {}, "ok", "linux x86_64, native sandbox (seccomp"),
        ("linux", "aarch64", {}, "ok", "native sandbox"),
        ("linux", "x86_64", {"release": "5.15-microsoft-standard-WSL2"}, "ok", "in WSL, native sandbox"),
        ("linux", "riscv64", {}, "warning", "no strong sandbox: there is no system call table"),
        ("darwin", "arm64", {"has_sandbox_exec": True}, "warning", "sandbox-exec (Seatbelt), which was never tested"),
        ("darwin", "arm64", {}, "failure", "/usr/bin/sandbox-exec is missing"),
        ("win32", "AMD64", {"has_deno": True}, "warning", "WASM interpreter (Deno is installed)"),
        ("win32", "AMD64", {}, "warning", "it needs Deno, which is not installed"),
        ("freebsd14", "amd64", {}, "warning", "no native sandbox"),
    ],
)
def test_each_platform_has_one_honest_line(
    system: str, machine: str, more: dict[str, object], status: str, says: str
) -> None:
    given = {"release": "6.1", "has_sandbox_exec": False, "has_deno": False, **more}
    line = platform_line(PlatformFacts(system=system, machine=machine, **given))
    assert line.status == status
    assert says in line.what
    assert "\n" not in line.what + line.fix
    assert bool(line.fix) == (status != "ok")
    if system == "win32":
        assert "WSL" in line.fix


def test_this_machine_has_a_line() -> None:
    assert platform_line(current_platform()).what.startswith("platform: ")
