"""The variables that a session was given, and which of them its processes hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import HandoverError
from .handover import LARGE, Mapped, Parcel, pack
from .process import Process
from .worker.wire import MAX_DESCRIPTORS


@dataclass(eq=False, frozen=True)
class Handing:
    """A value handed over once; handed over again, even the same value is another."""

    value: Any


Handings = dict[str, Handing]


class Given:
    """What was handed over, and what of it the worker (``held``) and its sleeping copy (``safe``) have.

    Args:
        given: the latest of every name.
        held: what the worker and its copy hold.
    """

    def __init__(self, given: Handings | None = None, held: Handings | None = None) -> None:
        self._given: Handings = dict(given or {})
        self._before = self._given  # without those of the latest cell
        self.held: Handings = dict(held or {})
        self.safe: Handings = dict(held or {})

    def pack(self, variables: dict[str, Any]) -> list[Parcel]:
        """Pack what is given now; a long text, bytes or corpus that the worker was given before stays as it is there.

        Raises:
            HandoverError: one of them cannot cross; nothing is given then.
        """
        fresh = {name: Handing(value) for name, value in variables.items() if not self._stays(name, value)}
        parcels = _packed(fresh)
        self._before, self._given = self._given, self._given | fresh
        return parcels

    def pack_lost(self, coming: list[Parcel]) -> list[Parcel]:
        """Pack what was given before and is lost with an earlier process, but for what is ``coming`` anyway."""
        names = {parcel.message["name"] for parcel in coming}
        return _packed({k: v for k, v in self._given.items() if k not in names and self.held.get(k) is not v})

    def with_those(self, names: Collection[str]) -> Handings:
        """Return what the worker holds after these were handed over."""
        return self.held | {name: self._given[name] for name in names if name in self._given}

    def refused(self, result: Mapping[str, Any], handed: Collection[str]) -> HandoverError:
        """Forget what the worker could not take in, and what was given with it; the rest of ``handed`` is not held."""
        name = result["name"]
        self._given = {k: v for k, v in self._before.items() if k != name}
        self.held = {k: v for k, v in self.held.items() if k not in handed}
        return HandoverError(f"variable {name!r} cannot be handed to the sandbox: {str(result.get('exc'))[:500]}")

    def lose(self) -> None:
        """Note that every process is gone."""
        self.held, self.safe = {}, {}

    def copy(self) -> Given:
        """Return the books of a copy of the worker as it is now."""
        return Given(self._given, self.held)

    def _stays(self, name: str, value: Any) -> bool:
        before = self.held.get(name)
        return before is not None and before is self._given.get(name) and before.value is value and _lasts(value)


@dataclass(frozen=True)
class Kept:
    """A checkpoint: the copy that is held, and which variables the session had been given."""

    process: Process
    given: Given


def _lasts(value: Any) -> bool:
    """Tell whether a value is long, and cannot change on the host."""
    return (isinstance(value, str | bytes) and len(value) >= LARGE) or isinstance(value, Mapped)


def _packed(handings: Handings) -> list[Parcel]:
    parcels: list[Parcel] = []
    try:
        for name, handing in handings.items():
            parcels.append(pack(name, handing.value))
            if sum(len(parcel.descriptors) for parcel in parcels) > MAX_DESCRIPTORS:
                raise HandoverError(
                    f"more than {MAX_DESCRIPTORS} large variables at once cannot be handed to the sandbox: put them "
                    "into one list or dict"
                )
    except BaseException:
        for parcel in parcels:
            parcel.close()
        raise
    return parcels
