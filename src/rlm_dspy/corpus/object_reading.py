"""Read addresses in object stores, and web pages that list a folder, into a collector."""

from __future__ import annotations

import functools
import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from pathspec import GitIgnoreSpec

from rlm_dspy.corpus.background import AT_ONCE, calls_in_order
from rlm_dspy.corpus.collecting import MAX_VALUE_BYTES, Collector, File, too_large
from rlm_dspy.corpus.corpus import Skipped
from rlm_dspy.corpus.fetching import Page, page_or_reason
from rlm_dspy.corpus.ignore_rules import MAX_PATTERN_BYTES, Layer, parse_rules
from rlm_dspy.corpus.index_pages import listed_pages
from rlm_dspy.corpus.object_stores import (
    LISTING_SECONDS,
    OBJECT_SECONDS,
    NotFetchedError,
    ObjectStore,
    StoreAddress,
    StoredObject,
    masked_secrets,
    parse_address,
    seconds_for,
)
from rlm_dspy.corpus.screening import is_secret, noise_folder
from rlm_dspy.corpus.walking import FileSelection, is_wanted, printable_name, reason_to_skip, split_glob
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import CorpusError

MAX_IGNORE_FILES = 1_000  # objects named .gitignore that are fetched
_ENVIRONMENT = "pyvenv.cfg"

_Named = tuple[StoredObject, str]  # with its name in the corpus


class _ObjectSource(Protocol):
    """Where objects come from: only ``fetch`` is called from other threads."""

    def fetch(self, one: StoredObject) -> bytes: ...

    def kept_bytes(self, one: StoredObject) -> bytes | None: ...

    def keep_bytes(self, one: StoredObject, data: bytes) -> None: ...

    def charset_of(self, one: StoredObject) -> str | None: ...


class _Web:
    """Pages, which are fetched each time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._charsets: dict[str, str | None] = {}  # by address

    def fetch(self, one: StoredObject) -> bytes:
        fetched = page_or_reason(one.address, self._most)
        if isinstance(fetched, str):
            raise NotFetchedError(f"it cannot be fetched: {masked_secrets(fetched)}")
        self._charsets[one.address] = fetched.charset
        return fetched.data

    def kept_bytes(self, one: StoredObject) -> bytes | None:
        return None

    def keep_bytes(self, one: StoredObject, data: bytes) -> None:
        pass

    def charset_of(self, one: StoredObject) -> str | None:
        return self._charsets.get(one.address)


class RemoteReader:
    """Reads objects and listed pages; ``many`` means that more than one path was named."""

    def __init__(self, choice: FileSelection, collector: Collector, *, many: bool) -> None:
        self._choice = choice
        self._found = collector
        self._many = many
        self._read: set[str] = set()

    def take_address(self, typed: str) -> None:
        """Read an object, or the objects below an address or a glob.

        Raises:
            CorpusError: There is nothing there, it is a secret, or the store cannot be read.
        """
        address = parse_address(typed)
        store = ObjectStore(address, self._found.limits.file_bytes)
        try:
            named = None
            if address.key and not address.key.endswith("/"):
                named = store.object_at(address.key)
            if named is not None:
                self._take_object(named, address, store)
            else:
                self._take_folder(address, store)
        finally:
            store.close()

    def take_index(self, url: str, page: Page) -> None:
        """Read the pages below a URL whose page lists a folder.

        Raises:
            CorpusError: It lists nothing.
        """
        objects = self._list_within(listed_pages(url, page.data, LISTING_SECONDS), url)
        if not objects:
            raise CorpusError(f"{masked_secrets(url)} lists no files below it")
        self._take_objects(objects, _Web(self._found.limits.file_bytes), None, url, page.name)

    def _take_object(self, one: StoredObject, address: StoreAddress, store: ObjectStore) -> None:
        above, _, last = one.address.rpartition("/")
        if not self._choice.secrets and is_secret(last, above):
            raise CorpusError(
                f"{masked_secrets(str(address))} looks like a secret: it is read only if secrets are allowed "
                "(secrets=True)"
            )
        name = printable_name(last)
        self._found.note_named_file(name, printable_name(str(address)))
        self._add_fetched([(one, name)], store, str(address))
        if _is_folder_too(store):
            self._found.skip(name + "/", f"there are objects below this one: name {printable_name(str(address))}/ too")

    def _take_folder(self, address: StoreAddress, store: ObjectStore) -> None:
        only = None
        if glob.has_magic(address.key):
            fixed, rest = split_glob(address.key)
            only = GitIgnoreSpec.from_lines(["/" + rest])
            address = StoreAddress(address.protocol, address.bucket, "" if fixed == "." else fixed)
            store.narrow_to(address)
        root = f"{address.protocol}://{address.bucket}/{address.folder}"
        objects = self._list_within(store.pages(LISTING_SECONDS), root)
        if not objects:
            raise CorpusError(f"{masked_secrets(str(address))}: no such object or folder")
        last = address.folder.rstrip("/").rpartition("/")[2] or address.bucket
        self._take_objects(objects, store, only, root, last)

    def _list_within(self, pages: Iterator[Sequence[StoredObject | Skipped]], root: str) -> list[StoredObject]:
        """Return the objects listed until the limit of files or of time, and report the limit that was reached.

        Raises:
            CorpusError: Nothing was listed in time.
        """
        objects: list[StoredObject] = []
        most = self._found.limits.files
        shown = printable_name(masked_secrets(root))
        try:
            for page in pages:
                for one in page:
                    if isinstance(one, Skipped):
                        self._found.skip(one.name, one.reason)
                    else:
                        objects.append(one)
                if len(objects) > most:
                    reason = f"beyond the limit of {counted_noun(most, 'file')} (max_files raises it)"
                    self._found.skip(printable_name(objects[most].name), f"{reason}, as is what follows it in {shown}")
                    return objects[:most]
        except TimeoutError:
            if not objects:
                raise CorpusError(f"{shown} cannot be read: no list of it came in {LISTING_SECONDS:g} s") from None
            reason = f"only {counted_noun(len(objects), 'object')} listed in {LISTING_SECONDS:g} s"
            self._found.skip(shown, f"{reason}, the rest is not read: name a longer address")
        except NotFetchedError as error:
            self._found.skip(shown, f"{error}, what is below others is not read: name a longer address")
        return objects

    def _take_objects(
        self, objects: list[StoredObject], source: _ObjectSource, only: GitIgnoreSpec | None, root: str, last: str
    ) -> None:
        if self._many or only is not None:
            prefix = f"{printable_name(last)}/"
        else:
            prefix = ""
        self._found.note_root(prefix, printable_name(root))
        if self._choice.ignore:
            layers = self._ignore_layers(objects, source, root.rstrip("/"), prefix)
        else:
            layers = {}
        chosen = ObjectFilter(root.rstrip("/"), self._choice, only, layers).choose_objects(objects)
        self._add_fetched(self._wanted(chosen, prefix), source, root)

    def _wanted(self, chosen: Iterable[StoredObject | Skipped], prefix: str) -> Iterator[_Named]:
        """Yield the objects to fetch with their names, and report the others."""
        for one in chosen:
            if isinstance(one, Skipped):
                self._found.skip(prefix + one.name, one.reason)
            elif not self._many or one.address not in self._read:
                self._read.add(one.address)
                yield one, prefix + printable_name(one.name)

    def _ignore_layers(
        self, objects: list[StoredObject], source: _ObjectSource, root: str, prefix: str
    ) -> dict[str, Layer]:
        """Return the rules of the listed ignore files, by the folder they are in."""
        files = [one for one in objects if one.name.rpartition("/")[2] == ".gitignore" and one.size != 0]
        if len(files) > MAX_IGNORE_FILES:
            self._found.skip(prefix + ".gitignore", f"only the first {MAX_IGNORE_FILES:,} files of rules are honoured")
        layers: dict[str, Layer] = {}
        named = ((one, prefix + printable_name(one.name)) for one in files[:MAX_IGNORE_FILES])
        for one, name, result in _fetched_in_order(named, source):
            try:
                data = result()
            except NotFetchedError as error:
                self._found.skip(name, f"its rules are not honoured: {error}")
                continue
            except TimeoutError:
                self._found.skip(name, "its rules, and those after it, are not honoured: it took too long to fetch")
                break
            if len(data) > MAX_PATTERN_BYTES:
                self._found.skip(name, "its rules are not honoured: it is too large")
                continue
            folder = one.name.rpartition("/")[0]
            rules = parse_rules(data.decode("utf-8-sig", "replace").split("\n"))
            layers[folder] = Layer(f"{root}/{folder}".rstrip("/"), rules)
        return layers

    def _add_fetched(self, wanted: Iterable[_Named], source: _ObjectSource, typed: str) -> None:
        """Fetch objects, several at once, and add them in order; stop if the corpus is full or the store is silent."""
        late = 0
        for one, name, result in _fetched_in_order(self._of_fitting_size(wanted), source):
            following = f"as is what follows it in {printable_name(typed)}"
            if full := self._found.full:
                self._found.skip(name, f"{full}, {following}")
                return
            if late >= AT_ONCE:
                self._found.skip(name, f"not read, {following}: the last {late} objects took too long")
                return
            try:
                data = result()
            except NotFetchedError as error:
                self._found.skip(name, str(error))
            except TimeoutError:
                late += 1
                self._found.skip(name, f"it took more than {seconds_for(one):,.3g} s to fetch")
            else:
                late = 0
                self._add_data(data, one, name, source.charset_of(one))

    def _of_fitting_size(self, wanted: Iterable[_Named]) -> Iterator[_Named]:
        limit = self._found.limits.file_bytes
        for one, name in wanted:
            if one.size > limit:
                self._found.skip(name, too_large(limit))
            elif one.size == 0:
                self._found.skip(name, "empty")
            else:
                yield one, name

    def _add_data(self, data: bytes, one: StoredObject, name: str, charset: str | None) -> None:
        if len(data) <= MAX_VALUE_BYTES:
            self._found.add(data, name, one.address, charset=charset)
            return
        with tempfile.NamedTemporaryFile(prefix="rlm-dspy-") as file:  # a text this large is read in parts
            file.write(data)
            file.flush()
            with File(file.name, follow=False) as opened:
                self._found.take(opened, name, one.address)


def _fetched_in_order(
    wanted: Iterable[_Named], source: _ObjectSource
) -> Iterator[tuple[StoredObject, str, Callable[[], bytes]]]:
    """Yield each object with its name and a function that returns its bytes, from the cache or the source.

    The function raises NotFetchedError, or TimeoutError if fetching takes too long.
    """

    def with_kept() -> Iterator[tuple[StoredObject, str, bytes | None]]:
        for one, name in wanted:
            yield one, name, source.kept_bytes(one)

    def fetch(task: tuple[StoredObject, str, bytes | None]) -> bytes:
        one, _, kept = task
        if kept is None:
            return source.fetch(one)
        return kept

    calls = calls_in_order(
        with_kept(),
        fetch,
        seconds_for=lambda task: seconds_for(task[0]),
        bytes_for=lambda task: max(task[0].size, 0),
    )
    for (one, name, kept), result in calls:
        yield one, name, functools.partial(_kept_result, source, one, result, kept is None)


def _kept_result(source: _ObjectSource, one: StoredObject, result: Callable[[], bytes], new: bool) -> bytes:
    data = result()
    if new:
        source.keep_bytes(one, data)
    return data


def _is_folder_too(store: ObjectStore) -> bool:
    """Return whether there are objects below the address of an object, as far as it may be listed."""
    try:
        page = next(store.pages(OBJECT_SECONDS), [])
    except (CorpusError, TimeoutError):
        return False  # permission to read an object does not include permission to list its bucket
    return any(one.name and not one.name.endswith("/") for one in page)


class ObjectFilter:
    """Chooses the objects to read below a root, by the same rules as for the files of a folder.

    ``layers`` are the ignore rules by the folder they are in.
    """

    def __init__(
        self, root: str, choice: FileSelection, only: GitIgnoreSpec | None, layers: Mapping[str, Layer]
    ) -> None:
        self._root = root
        self._choice = choice
        self._only = only
        self._layers = layers
        self._reasons: dict[str, str | None] = {}  # why a folder is not read, by its name below the root

    def choose_objects(self, objects: Iterable[StoredObject]) -> Iterator[StoredObject | Skipped]:
        """Yield the objects to read, and the skipped ones; a skipped folder is one entry."""
        ordered = sorted(objects, key=lambda one: one.name)
        environments = {one.name.rpartition("/")[0] for one in ordered if one.name.endswith("/" + _ENVIRONMENT)}
        reported: set[str] = set()
        for one in ordered:
            if one.name.endswith("/") and not one.size:
                continue  # an empty object that stands for a folder
            if (wrong := _wrong_name(one.name)) is not None:
                yield Skipped(printable_name(one.name) or ".", wrong)
                continue
            closed = self._closed_folder(one.name, environments)
            if closed is not None:
                if closed not in reported:
                    reported.add(closed)
                    yield Skipped(printable_name(closed + "/"), self._reasons[closed] or "")
            elif is_wanted(one.name, self._choice, self._only):
                reason = self._reason_for(one.name, is_folder=False)
                yield one if reason is None else Skipped(printable_name(one.name), reason)

    def _closed_folder(self, name: str, environments: set[str]) -> str | None:
        """Return the highest folder above a name that is not read, or None."""
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._reasons:
                if folder in environments:
                    entries = frozenset({_ENVIRONMENT})
                else:
                    entries = frozenset[str]()
                reason = self._reason_for(folder, is_folder=True)
                self._reasons[folder] = reason or noise_folder(parts[depth - 1], entries)
            if self._reasons[folder] is not None:
                return folder
        return None

    def _reason_for(self, name: str, *, is_folder: bool) -> str | None:
        parts = name.split("/")
        above = ["/".join(parts[:depth]) for depth in range(len(parts))]
        layers = tuple(self._layers[folder] for folder in above if folder in self._layers)
        return reason_to_skip(f"{self._root}/{name}", name, layers, self._choice, is_folder=is_folder)


def _wrong_name(name: str) -> str | None:
    """Return why a name cannot be that of a file, or None."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "its name is not a path: it has an empty part, . or .."
    if "?versionId=" in name:
        return "its name asks for a version of another object"
    return None
