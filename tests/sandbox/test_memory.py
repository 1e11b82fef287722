"""Whatever a cell does with its memory, no more than its limit is ever resident."""

from pathlib import Path

import pytest

from rlm_dspy.sandbox import Sandbox, zygote_host

MEMORY_MB, BESIDE_MB = 128, 96  # what the process itself takes, and tables of pages

PRELUDE = """
import sys
ctypes = sys.modules['rlm_worker.confine'].ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
piece, failed = 16 << 20, (None, (1 << 64) - 1)
def taken(flags=0x22, protection=3, size=piece):
    address = libc.mmap(None, size, protection, flags, -1, 0)
    return None if address in failed else address
"""

ATTACKS = {
    "filled, then read-only": """
for _ in range(64):
    if (at := taken()) is None: break
    ctypes.memset(at, 1, piece)
    if libc.mprotect(at, piece, 1): break
""",
    "filled, then without any right": """
for _ in range(64):
    if (at := taken()) is None: break
    ctypes.memset(at, 1, piece)
    if libc.mprotect(at, piece, 0): break
""",
    "reserved, then made writable": """
for _ in range(64):
    at = taken(protection=0)
    if at is None or libc.mprotect(at, piece, 3): break
    ctypes.memset(at, 1, piece)
""",
    "moved, and left behind": """
for _ in range(64):
    if (at := taken()) is None: break
    ctypes.memset(at, 1, piece)
    if libc.mremap(at, piece, piece, 5, None) in failed: break
""",
    "grown": """
at, size = taken(), piece
while at is not None and size < 64 * piece:
    ctypes.memset(at + size - piece, 1, piece)
    larger = libc.mremap(at, size, size + piece, 1, None)
    if larger in failed: break
    at, size = larger, size + piece
""",
    "looked at here and there": """
for _ in range(300):
    if (at := taken(0x4022, 1, 1 << 30)) is None: break
    for place in range(0, 1 << 30, 2 << 20): ctypes.c_char.from_address(at + place).value
""",
    "asked for by advice": """
for _ in range(64):
    if (at := taken(0x4022, 1)) is None: break
    libc.madvise(at, piece, 14), libc.madvise(at, piece, 22), libc.madvise(at, piece, 23)
""",
    "shared": """
for _ in range(64):
    if (at := taken(0x21)) is None: break
    ctypes.memset(at, 1, piece)
""",
    "grown down": """
for _ in range(64):
    if (at := taken(0x122)) is None: break
    ctypes.memset(at, 1, piece)
""",
    "on the stack": """
limits = sys.modules['resource']
try: limits.setrlimit(limits.RLIMIT_STACK, (1 << 40, 1 << 40))
except (ValueError, OSError): pass
""",
    "on the heap": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "in threads": """
import threading, time
def fill():
    try:
        x = []
        while True: x.append(bytearray(1 << 20))
    except MemoryError: time.sleep(0.1)
for _ in range(60): threading.Thread(target=fill).start()
""",
}


def taken(pid):
    """Return the megabytes that a process had resident at most, with the tables of its pages."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) for name in ("VmHWM", "VmPTE")) / 1024


@pytest.mark.parametrize("without", [(), ("namespaces",)], ids=["confined", "without namespaces"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_more_than_the_limit_is_resident(attack, without):
    with Sandbox(memory_mb=MEMORY_MB, timeout=30, checkpoint="never") as sandbox:
        sandbox._setting = zygote_host.ZygoteSettings(without=without)
        sandbox.run(PRELUDE)
        sandbox.run(ATTACKS[attack])
        assert taken(sandbox._link.active.pid) < MEMORY_MB + BESIDE_MB
        assert sandbox.run("6 * 7").value == "42"


def test_a_context_larger_than_the_memory_limit_and_threads_fit_beside_each_other():
    text = "x" * (300 << 20)
    with Sandbox(memory_mb=64) as sandbox:
        code = (
            "import threading\nts = [threading.Thread(target=text.count, args=('y', 0, 1 << 20)) for _ in range(60)]\n"
        )
        code += "for t in ts: t.start()\nfor t in ts: t.join()\nlen(text)"
        assert sandbox.run(code, {"text": text}).value == str(len(text))
