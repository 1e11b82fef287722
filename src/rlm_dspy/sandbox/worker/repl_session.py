"""One REPL session: it runs cells, keeps their state, and forks a sleeping copy for rollback."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the C module, which loads instantly
import _socket as socket
import sys
import threading
from _thread import get_ident
from binascii import a2b_base64
from collections.abc import Callable
from errno import EAGAIN, ENOMEM
from marshal import loads
from os import _exit, getpid, read
from random import seed
from types import ModuleType
from typing import Any, NoReturn

from . import awaiting, evaluate, forks, handed, limits, modules, output, own, values
from .wire import TOKEN_BYTES, Message, Wire, encoded_frame, refuse_many_values

MAX_RESULT = 16 << 20
MAX_NAMES = 10_000
MAX_VALUE = 10_000  # characters of a last expression's repr up to which its value is sent too
MAX_DATA = 1 << 18  # bytes of its JSON, because a cell's own class may have a short repr
MAX_HITS = 100  # of a last expression whose value is sent too
MAX_QUOTED_CHARS = 80  # characters of an argument that an error quotes


class CellInterrupted(KeyboardInterrupt):
    """The host asked this cell to end."""


class Submitted(BaseException):
    """SUBMIT was called, which ends the cell."""


class WorkerSession:
    """Serves one host-side Sandbox until its socket closes.

    The zygote makes it before forking, and ``join`` attaches it to one host session, because pages written after a
    fork must be copied.
    """

    wire: Wire
    control: int

    def __init__(self, extra: frozenset[str], toolkit: Any, zstr: Any) -> None:
        self.toolkit = toolkit
        self.zstr = zstr
        self.extra = extra
        self.module = ModuleType("__main__")  # dataclasses and get_type_hints look up their module
        self.namespace: dict[str, Any] = self.module.__dict__
        self.builtins = modules.guarded_builtins(self.extra)
        self.namespace["__builtins__"] = dict(self.builtins)
        self.submit = self._submit_outputs  # one object, or each cell would see a new one
        self.fields: list[str] | None = None
        self.optional: list[str] = []
        self.tools: dict[str, Any] = {}
        self.main: str | None = None
        self.protected: list[str] = []
        self.inputs: dict[str, Any] = {}  # the protected variables as handed over
        self.own_functions: dict[str, Any] = {}  # FINAL, FINAL_VAR and the toolkit
        self.functions: dict[str, Any] = {}  # those that the host's own code made
        self.final: Any = None
        self.armed = False
        self.pending = False
        self.reason = "interrupt"
        self.dirty = True
        self.copies = 0
        self.fork_refused = False
        self.after = False
        self._bind_names()
        seed(0)  # so that a rerun prints the same and cached model replies apply

    # -- setting up ------------------------------------------------------------------------------------------

    def join(self, wire: Wire, control: int, cap: int) -> None:
        """Attach to the two sockets of the host's session, with the cap on a cell's output."""
        self.wire = wire
        self.control = control
        self.thread = get_ident()
        sys.modules["__main__"] = self.module
        self.out = output.Output(cap)
        self.err = output.Output(cap)
        wire.deferred = self._raise_pending

    def _bind_names(self) -> None:
        self.namespace.update(SUBMIT=self.submit, FINAL=self._submit_first, FINAL_VAR=self._submit_variable)
        names = ["FINAL", "FINAL_VAR"]
        if self.toolkit is not None:
            names += self.toolkit.bind(self.namespace, self.main)
        self.own_functions = {name: self.namespace[name] for name in names}
        self.read_only_check = evaluate.ReadOnlyCheck(self.namespace, self.toolkit)

    def configure(self, message: Message) -> None:
        """Apply the host's current tools, output fields and main variable."""
        if "main" in message and (message["main"] != self.main or message.get("fresh")):
            self.main = message["main"]
            self._bind_names()
        if "fields" in message:
            self.fields = message["fields"]
        if "optional" in message:
            self.optional = message["optional"]
        if "tools" in message:
            for name in self.tools.keys() - set(message["tools"]):
                self.namespace.pop(name, None)
            self.tools = {name: self._host_function(name) for name in message["tools"]}
            self.namespace.update(self.tools)
        self.protected = message.get("protected", self.protected)
        if message.get("fresh"):
            self.inputs.clear()
            self.functions.clear()
        handed.receive_variables(
            message.get("vars", []), self.wire.descriptors, self.namespace, self.zstr, self.toolkit
        )
        for parcel in message.get("vars", []):
            if parcel["name"] in self.protected and parcel["name"] in self.namespace:
                self.inputs[parcel["name"]] = self.namespace[parcel["name"]]
        if "P" in self.protected or "P" in self.tools:
            return
        renewed = "P" not in self.namespace or any(
            variable["name"] == self.main for variable in message.get("vars", [])
        )
        if self.main is not None and renewed and self.main in self.namespace:
            self.namespace["P"] = self.namespace[self.main]

    def _host_function(self, name: str) -> Callable[..., Any]:
        def tool(*arguments: Any, **keywords: Any) -> Any:
            call = {
                "t": "call",
                "name": name,
                "a": [self._encoded_argument(value, name) for value in arguments],
                "k": {key: self._encoded_argument(value, name) for key, value in keywords.items()},
            }
            answer = self.wire.ask(call)
            if "e" in answer:
                raise evaluate.error_class(answer["e"]["name"])(answer["e"]["text"]) from None
            return values.decode(answer["v"], values.Record)

        tool.__name__ = tool.__qualname__ = name
        tool.host_call = True  # type: ignore[attr-defined]  # so that a cell may await it
        return tool

    @staticmethod
    def _encoded_argument(value: Any, name: str) -> Any:
        try:
            return values.encode(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}(): {error}; pass plain data (str, numbers, list, dict, …)") from None

    # -- SUBMIT ----------------------------------------------------------------------------------------------

    def _submit_outputs(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """End the run with these outputs; the first SUBMIT counts if the code catches its end and submits again."""
        if get_ident() != self.thread:
            raise RuntimeError("SUBMIT() is for the cell itself, not for a thread: let the cell wait for its result")
        if self.final is not None:
            raise Submitted
        chosen = self._outputs_by_name(arguments, keywords)
        try:
            encoded = values.encode(chosen)
        except (TypeError, ValueError) as error:
            raise TypeError(f"SUBMIT(): {error}; submit plain data (str, numbers, list, dict, …)") from None
        body = own.dumps(encoded).encode("ascii")
        if len(body) > MAX_RESULT:
            raise ValueError(f"SUBMIT(): the value is {len(body):,} bytes long; the limit is {MAX_RESULT:,}")
        refuse_many_values(body, "SUBMIT(): the value")
        self.final = encoded
        raise Submitted

    def _outputs_by_name(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
        if self.fields is None:
            if not arguments:
                return keywords
            if keywords or len(arguments) > 1:
                raise TypeError("SUBMIT() takes one value, or values by name")
            return {"output": arguments[0]}
        expected = f"SUBMIT({', '.join(name + '=…' for name in self.fields)})"
        if len(arguments) > len(self.fields):
            raise TypeError(f"SUBMIT() got {len(arguments)} values for {len(self.fields)} outputs; call {expected}")
        is_single = len(arguments) == 1 and len(self.fields) > 1 and not keywords
        if is_single and isinstance(arguments[0], dict):
            return self._outputs_by_name((), arguments[0])  # all outputs in one dict
        chosen = dict(zip(self.fields, arguments, strict=False))
        if twice := chosen.keys() & keywords.keys():
            raise TypeError(f"SUBMIT() got {sorted(twice)[0][:MAX_QUOTED_CHARS]!r} twice; call {expected}")
        chosen.update(keywords)
        if unknown := [name for name in chosen if name not in self.fields]:
            raise TypeError(f"SUBMIT() got an unknown output {unknown[0][:MAX_QUOTED_CHARS]!r}; call {expected}")
        if missing := [name for name in self.fields if name not in chosen and name not in self.optional]:
            raise TypeError(f"SUBMIT() misses {', '.join(map(repr, missing))}; call {expected}")
        return chosen

    def _submit_first(self, value: Any) -> NoReturn:
        """Submit ``value`` as the first output."""
        name = self.fields[0] if self.fields else "output"
        self._submit_outputs(**{name: value})

    def _submit_variable(self, name: str) -> NoReturn:
        """Submit the variable called ``name`` as the first output."""
        if not isinstance(name, str):
            self._submit_first(name)
        key = name.strip().strip("\"'")
        if not key.isidentifier():
            self._submit_first(name)
        if key not in self.namespace:
            raise NameError(f"FINAL_VAR: there is no variable {key[:MAX_QUOTED_CHARS]!r}; FINAL(value) takes a value")
        self._submit_first(self.namespace[key])

    # -- interrupts ------------------------------------------------------------------------------------------

    def on_interrupt(self, number: int, frame: Any) -> None:
        self.reason = "cpu" if number == signal.SIGXCPU else "interrupt"
        if not self.armed:
            return
        if self.wire.guarded:
            self.pending = True
            return
        raise CellInterrupted

    def _raise_pending(self) -> None:
        if self.pending and self.armed:
            self.pending = False
            raise CellInterrupted

    def _disarm_interrupts(self) -> None:
        while True:
            try:
                self.armed = False
                self.pending = False
                return
            except CellInterrupted:
                continue

    # -- cells -----------------------------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        """Serve the host's commands until the process ends."""
        while True:
            message = self.wire.command()
            try:
                if message["t"] == "exec":
                    self.cell(message)
                else:
                    _exit(1)
            except CellInterrupted:  # interrupted after the cell had ended
                self._disarm_interrupts()

    def cell(self, message: Message) -> None:
        """Run one cell, save copies of the state around it, and report the result."""
        number = message["n"]
        result: Message = {"t": "result", "n": number}
        try:
            self.configure(message)
        except handed.ReceiveVariableError as error:
            self.wire.send({**result, "kind": "handover", "name": error.name, "exc": str(error)})
            return
        self._restore_names()
        before = dict(self.namespace)
        self.dirty = self.dirty or message["renew"] or bool(message.get("vars"))
        self.out.clear()
        self.err.clear()
        self.final = None
        self.fork_refused = False
        changed = self._run_source(message, result)
        if changed:
            self.dirty = True
            self.after = True
            if message["save"]:
                self._save(number)
        result["names"] = self._new_names(before)
        result["restored"] = self._restore_inputs()
        self._report(result)

    def _run_source(self, message: Message, result: Message) -> bool:
        """Run the source and fill ``result``; return whether state may have changed."""
        number = message["n"]
        changed = self.after = False
        self.reason = "interrupt"
        try:
            try:
                if "compiled" in message:  # the host's own code
                    changed = self.armed = True
                    self._run_own_code(loads(a2b_base64(message["compiled"])))
                    return True
                tree = evaluate.parse_cell(message["code"], number)
                changed = message["always"] or not self.read_only_check.is_read_only(tree)
                why_not = modules.hopeless_reason(tree, self.namespace, self.extra)
                if why_not:
                    result.update(kind="refused", exc=why_not)
                    return False
                if changed and self.dirty and message["save"]:
                    self._save(number)
                limits.limit_cpu(message["cpu"])
                self.armed = True
                if "await" in message["code"] or "async" in message["code"]:
                    awaiting.begin_calls(tree, self.namespace)
                value = evaluate.run_cell(tree, self.namespace, number)
                if value is not None:
                    result["value"] = evaluate.echo_value(value, self.out.cap)
                    if len(result["value"]) <= MAX_VALUE:
                        result["data"] = self._encoded_value(value)
            finally:
                own.restore_system()
                self._disarm_interrupts()
        except Resumed:
            raise
        except Submitted:
            pass
        except CellInterrupted as error:
            self._disarm_interrupts()
            result.update(kind=self.reason, exc=evaluate.cell_traceback(error))
        except BaseException as error:  # the boundary: whatever the cell raises is reported, never fatal
            self._disarm_interrupts()
            result.update(self._error_result(error))
        return changed

    def _encoded_value(self, value: Any) -> Any:
        """Return the last expression's value for the host, or None if it cannot be sent or is too large."""
        if self.toolkit is not None and isinstance(value, self.toolkit.Matches) and len(value) > MAX_HITS:
            return None
        try:
            encoded = values.encode(value)
            if len(own.dumps(encoded)) <= MAX_DATA:
                return encoded
            return None
        except (TypeError, ValueError, RecursionError):
            return None

    def _run_own_code(self, code: Any) -> None:
        """Run the host's own code, and remember the functions that it gives to the cells."""
        before = dict(self.namespace)
        exec(code, self._own_names())
        for name, value in list(self.namespace.items()):
            if type(name) is str and callable(value) and before.get(name) is not value:
                self.functions[name] = value

    def _own_names(self) -> dict[str, Any]:
        """Return a namespace for the host's own code, with the cells' namespace as ``repl``."""
        taken = frozenset(name for name in (*self.tools, *self.protected) if not name.startswith("__"))
        builtins = self.namespace["__builtins__"]
        return {"__name__": "rlm", "__builtins__": builtins, "repl": self.namespace, "taken": taken, "main": self.main}

    def _error_result(self, error: BaseException) -> Message:
        if isinstance(error, SyntaxError) and str(error.filename).startswith(evaluate.CELL):
            return {"kind": "syntax", "exc": evaluate.error_summary(error)}
        if isinstance(error, SystemExit):
            return {"kind": "exit", "exc": "SystemExit: exit() ends only the cell; the session goes on."}
        if isinstance(error, MemoryError):
            return {"kind": "memory", "exc": evaluate.cell_traceback(error)}
        return {"kind": "error", "exc": evaluate.cell_traceback(error)}

    def _restore_names(self) -> None:
        """Restore what earlier cells may have removed."""
        own.restore_system()
        modules.restore_modules()
        modules.restore_builtins(self.namespace, self.builtins)
        self.namespace["SUBMIT"] = self.submit
        for name, function in {**self.own_functions, **self.tools}.items():
            self.namespace.setdefault(name, function)
        sys.stdout = sys.__stdout__ = self.out  # type: ignore[misc,assignment]
        sys.stderr = sys.__stderr__ = self.err  # type: ignore[misc,assignment]

    def _restore_inputs(self) -> list[str]:
        """Restore the inputs and the host's functions that the cell rebound, and return their names.

        A function that the cell defines in place of the host's stays.
        """
        lost: list[str] = []
        for name, function in {**self.functions, **self.tools}.items():
            if name not in self.inputs and not callable(self.namespace.get(name)):
                self.namespace[name] = function
                if not name.startswith("__"):
                    lost.append(name)
        for name, value in self.inputs.items():
            if name in self.protected and self.namespace.get(name, self) is not value:
                self.namespace[name] = value
                lost.append(name)
        return lost

    def _new_names(self, before: dict[str, Any]) -> list[str]:
        missing = object()
        names = [
            name
            for name, value in list(self.namespace.items())
            if type(name) is str and not name.startswith("__") and before.get(name, missing) is not value
        ]
        return [name[:200] for name in names[:1000]]

    def _report(self, result: Message) -> None:
        result["out"], cut = self.out.text()
        result["err"], cut_too = self.err.text()
        result["cut"] = cut or cut_too
        result["copies"] = self.copies
        result["fork_refused"] = self.fork_refused
        if self.final is not None:
            result["final"] = self.final
        if len(self.namespace) > MAX_NAMES:
            result["crowd"] = len(self.namespace)
        self.wire.send(result)

    # -- the sleeping copy -----------------------------------------------------------------------------------

    def _save(self, number: int) -> None:
        """Fork a copy of this session that sleeps until the host needs it."""
        notice = encoded_frame({"t": "standby", "n": number, "after": self.after, "serial": self.copies + 1})
        try:
            child = forks.fork()
        except OSError as error:
            self.fork_refused = error.errno in (EAGAIN, ENOMEM)  # by the kernel, not by the host
            return
        if child == 0:
            self._sleep_as_standby(notice)
        self.copies += 1
        self.dirty = False

    def _sleep_as_standby(self, notice: bytes) -> NoReturn:
        """Become the standby: only the host's token lets this process continue."""
        try:
            self._wait_for_token(notice)
        except BaseException:  # whatever user code broke, a copy must never continue by itself
            _exit(1)
        raise Resumed

    def _wait_for_token(self, notice: bytes) -> None:
        """Sleep until the token arrives, then skip what the dead session did not read."""
        self.wire.write(memoryview(notice))
        token = read(self.control, TOKEN_BYTES)
        if len(token) != TOKEN_BYTES:
            _exit(0)
        self.wire.forget()
        self.copies = 0
        tail = b""
        while token not in tail:
            data = read(self.wire.channel.fileno(), 1 << 16)
            if not data:
                _exit(0)
            tail = tail[-TOKEN_BYTES:] + data

    def carry_on(self) -> None:
        """Take over from the dead session: make a new standby, then report it."""
        self.after = False
        evaluate.renew_threads()
        self._save(0)
        self.wire.send({"t": "resumed", "copies": self.copies})


class Resumed(BaseException):
    """This process was the standby and is now the session."""


def prepare_session(extra: frozenset[str], toolkit: Any, zstr: Any) -> WorkerSession:
    """Return a session for a worker to serve after the fork."""
    limits.limit_threads()
    threading.excepthook = evaluate.thread_failed
    sys.unraisablehook = lambda failure: None
    return WorkerSession(extra, toolkit, zstr)


def main(channel: int, control: int, cap: int, session: WorkerSession) -> NoReturn:
    """Become a worker that serves this session; ``cap`` limits the output of a cell in characters."""
    wire = Wire(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=channel))
    session.join(wire, control, cap)
    for number in (signal.SIGINT, signal.SIGXCPU):
        signal.signal(number, session.on_interrupt)
    wire.send({"t": "hello", "pid": getpid()})
    resumed = False
    while True:
        try:
            if resumed:
                resumed = False
                session.carry_on()
            session.serve()
        except Resumed:
            resumed = True
