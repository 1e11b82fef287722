"""The zygote: loads the standard library once, locks itself down, then forks a worker per session.

One start makes three processes. The *keeper* is the host's child: it only waits, and kills everything when the
host ends. Its child is the *reaper*, the first process of the pid namespace if there is one, which adopts
orphans. The reaper's child is the zygote. Only workers, forked from the zygote, run a model's code. Sessions
survive the end of the zygote, but not that of the host.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the C module, which loads instantly
import _socket as socket
import array
import contextlib
import fcntl
import gc
import json
import os
import select
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from . import bpf, bytecode_importer, confine, evaluate, limits, modules, places, repl_session, zstr
from .repl_session import WorkerSession
from .wire import MAX_MESSAGE_BYTES

IDLE_MS = 20
LATE_IMPORT_BYTES = 16 << 20  # memory for modules imported after the measurement
# Address space for contexts, which may be as large as the machine's memory, and for reserved stacks and heaps.
# A page never written to takes no memory, but its page table entry takes a five-hundredth of a page.
MOST_CONTEXTS, RESERVED = 64 << 30, 2 << 30
# The fixed descriptor of a worker's socket, so that the filter can allow descriptors to arrive only there.
CHANNEL_DESCRIPTOR = 40


def main(
    channel: socket.socket,
    life: int,
    instructions: bytes,
    importer: bytecode_importer.BytecodeImporter,
    receive: Callable[..., Any],
) -> NoReturn:
    """Run as the keeper until the host ends; the zygote continues in a descendant."""
    warnings.simplefilter("ignore", SyntaxWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    os.environ.clear()
    policy = json.loads(instructions)
    report: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3]))}
    started = time.perf_counter()
    places.name_code()
    toolkit = _preload_modules(policy, importer)
    _, index, codes = receive(channel)
    importer.add(index, codes)
    report["missing"] = _import_modules([*_modules_without_bytecode(importer), *policy["modules"]])
    sys.path.clear()
    share = zstr.string_maker()
    report["shared_text"] = share is not None
    ready = repl_session.prepare_session(frozenset(policy["modules"]), toolkit, share)
    report["import_ms"] = _milliseconds_since(started)
    started = time.perf_counter()
    _fork_zygote(channel, life, policy, report)
    sizes = _memory_sizes()
    listener = _lock_down(policy, report, channel.fileno())
    report["lock_ms"] = _milliseconds_since(started)
    _serve_orders(channel, listener, report, ready, sizes)


def _milliseconds_since(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 2)


def _preload_modules(policy: dict[str, Any], importer: bytecode_importer.BytecodeImporter) -> Any:
    """Import the modules that every session needs or that cannot be imported later; return the toolkit."""
    importer.after["asyncio"] = _install_mini_loop
    importer.after["linecache"] = evaluate.remember_lines
    # Some modules read the system's name on import; the call is refused, and the host's name is private.
    system = os.uname_result(("Linux", "sandbox", "", "", os.uname().machine))
    os.uname = lambda: system
    # Both are useless without a network, and load large libraries.
    sys.modules["ssl"] = sys.modules["_hashlib"] = None  # type: ignore[assignment]
    # `copy` searches every folder for it, for Jython.
    sys.modules["org"] = None  # type: ignore[assignment]
    sys.path += policy["path"]
    _import_modules(modules.PRELOADED)
    return __import__("toolkit")


def _import_modules(names: Iterable[str]) -> list[str]:
    """Import these modules; return those that are missing."""
    missing = []
    for name in names:
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    return missing


def _modules_without_bytecode(importer: bytecode_importer.BytecodeImporter) -> list[str]:
    """Return the modules without bytecode from the host, which cannot be read later."""
    return [name for name in modules.SHELVED if name in modules.ALLOWED and name not in importer.compiled]


def _install_mini_loop() -> None:
    __import__("rlm_worker.miniloop", fromlist=["install"]).install()


def _fork_zygote(channel: socket.socket, life: int, policy: dict[str, Any], report: dict[str, Any]) -> None:
    """Fork the keeper and the reaper, and return in the process that becomes the zygote."""
    linux = sys.platform == "linux"
    if linux:
        confine.die_with_parent()
        if "root" not in policy["without"]:
            confine.drop_root(report)
            confine.die_with_parent()  # a change of user clears the setting
        if "namespaces" not in policy["without"]:
            confine.enter_namespaces(report)
    gc.freeze()
    reaper = os.fork()
    if reaper:
        channel.close()
        _run_keeper(reaper, life)
    os.setsid()
    if linux:
        confine.die_with_parent()
        confine.adopt_orphans()
    zygote = os.fork()
    if zygote:
        channel.close()
        os.close(life)
        _run_reaper()
    os.close(life)


def _run_keeper(reaper: int, life: int) -> NoReturn:
    """Wait for the host or the reaper to end, then kill all remaining processes."""
    watch = select.poll()
    watch.register(life, 0)
    while True:
        gone = watch.poll(1000)
        if gone or os.waitpid(reaper, os.WNOHANG)[0]:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(OSError):
                    kill(reaper, signal.SIGKILL)
            os._exit(0)


def _run_reaper() -> NoReturn:
    """Reap dead processes; end when none are left."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


def _lock_down(policy: dict[str, Any], report: dict[str, Any], control: int) -> int:
    """Lock this process down with every layer of the policy; return the fork listener, or -1 without one."""
    if sys.platform != "linux":
        return -1
    confine.die_with_parent()
    if "privileges" not in policy["without"]:
        confine.give_up_privileges(report)
    if "landlock" not in policy["without"]:
        confine.apply_landlock(report)
    machine = confine.machine()
    if machine is None or "seccomp" in policy["without"]:
        report["seccomp"] = False
        return -1
    receive = (control, CHANNEL_DESCRIPTOR)
    if "fork_control" not in policy["without"]:
        listener = confine.filter_calls(report, bpf.Filter(machine, receive, (control,), fork="ask"))
        if listener >= 0:
            return listener
    # Without a supervisor the zygote may fork freely, and each worker drops that right itself.
    report["last_filter"] = bpf.Filter(machine, receive, (), fork="refuse")
    return confine.filter_calls(report, bpf.Filter(machine, receive, (control,), fork="allow", stack=True))


def _serve_orders(
    channel: socket.socket, listener: int, report: dict[str, Any], ready: WorkerSession, sizes: tuple[int, int]
) -> NoReturn:
    rules = report.pop("last_filter", None)
    if rules and report.get("seccomp") is True:
        last_filter = confine.last_filter(rules)
    else:
        last_filter = None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in [name for name in sys.modules if name == "__main__" or name.startswith("ctypes")]:
        del sys.modules[name]
    modules.remember_loaded()
    places.hide_paths()
    gc.freeze()
    if listener >= 0:
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
    else:
        attached = []
    channel.sendmsg([json.dumps({"t": "ready", "pid": os.getpid(), "report": report}).encode()], attached)
    if listener >= 0:
        os.close(listener)
    ahead = list(modules.WARMED)
    while True:
        _import_while_idle(channel, ahead)
        config, descriptors = _next_order(channel)
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        _become_worker(channel, config, descriptors, sizes, ready, last_filter)


def _import_while_idle(channel: socket.socket, ahead: list[str]) -> None:
    """Preload modules, one at a time, until the host sends an order."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    while ahead and not waiting.poll(IDLE_MS):
        with contextlib.suppress(ImportError):
            __import__(ahead.pop(0))
        modules.remember_loaded()  # immediately: a session may start now, and modules loaded so far are ours
        if not ahead:
            gc.freeze()


def _next_order(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for the host's order for a worker."""
    data, ancillary, _, _ = channel.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(16))
    if not data:
        os._exit(0)
    descriptors = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(body[: len(body) - len(body) % 4])
    return json.loads(data), list(descriptors)


def _become_worker(
    channel: socket.socket,
    config: dict[str, Any],
    descriptors: list[int],
    sizes: tuple[int, int],
    ready: WorkerSession,
    last_filter: Any,
) -> NoReturn:
    try:
        gc.enable()
        channel.close()
        limits.limit_process(config, *sizes)
        if last_filter is not None:
            last_filter()
        wire = fcntl.fcntl(descriptors[0], fcntl.F_DUPFD_CLOEXEC, CHANNEL_DESCRIPTOR)
        os.close(descriptors[0])
        repl_session.main(wire, descriptors[1], config["output"], ready)
    except BaseException:  # nothing can be reported here: the host sees the worker end
        if config.get("debug"):
            import traceback

            os.write(2, traceback.format_exc().encode())
    os._exit(1)


def _memory_sizes() -> tuple[int, int]:
    """Return this process's initial memory, and the address space that a session may use besides its memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    beside = RESERVED + min(os.sysconf("SC_PHYS_PAGES") * page, MOST_CONTEXTS)  # not available after the lock-down
    try:
        with open("/proc/self/statm") as file:
            pages = [int(count) for count in file.read().split()]
    except OSError:
        return 64 << 20, (1 << 30) + beside
    return pages[5] * page + LATE_IMPORT_BYTES, pages[0] * page + LATE_IMPORT_BYTES + beside
