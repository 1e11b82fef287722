"""Object stores: S3, Google Cloud Storage, Azure Blob Storage, listed and fetched through fsspec within limits.

Only the protocols named here are opened, always by their name and never from a text that fsspec itself would parse, so
that no address reaches a chain (``simplecache::…``) or another file system. Credentials come only from the store's own
environment variables and files.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlm_dspy.corpus.background import call_within
from rlm_dspy.corpus.disk_cache import ObjectCache
from rlm_dspy.errors import CorpusError
from rlm_dspy.redact import MASK, Redactor

LISTING_SECONDS = 120.0  # seconds to list one address
OBJECT_SECONDS = 30.0  # seconds to fetch an object
SECONDS_FOR_MB = 1.0  # seconds added per MB of the object

_TAG_NAMES = ("ETag", "etag", "md5Hash", "updated", "last_modified", "LastModified", "mtime")


@dataclass(frozen=True)
class _Store:
    """The package that reads a store, and how the user gives it credentials."""

    package: str
    credentials: str


_AMAZON = _Store(
    "s3fs",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_ENDPOINT_URL names a server other than "
    "Amazon's, FSSPEC_S3_ANON=true reads public buckets",
)
_GOOGLE = _Store("gcsfs", "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login")
_AZURE = _Store(
    "adlfs", "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING"
)
_STORES = {
    "s3": _AMAZON, "gs": _GOOGLE, "gcs": _GOOGLE, "az": _AZURE, "abfs": _AZURE, "memory": _Store("fsspec", ""),
}  # fmt: skip

# Variables that decide which server an address means.
_PLACES = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "STORAGE_EMULATOR_HOST"),
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"),
)

_ADDRESS = re.compile(rf"({'|'.join(_STORES)})://([^/]*)(/.*)?", re.DOTALL | re.IGNORECASE)
_FOREIGN = re.compile(r"[a-z][a-z0-9+.-]*(?:::|://)", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9$_][A-Za-z0-9._-]*")

_SECRET_FORMS = (
    re.compile(r"(?<=//)[^/\s@'\"]+(?=@)"),  # user:password@
    re.compile(r"(?<=\?)[^\s'\"<>]*=[^\s'\"<>]*"),  # a query, which signs an address
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),
    re.compile(r"(?<=Key=)[^\s;'\"]+|(?<=Signature=)[^\s;,'\"]+"),
)


@dataclass(frozen=True)
class StoreAddress:
    """An address in a store: ``s3://bucket/key``; the key may be empty."""

    protocol: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.bucket}/{self.key}"

    @property
    def folder(self) -> str:
        """The key as the beginning of the keys below it: empty, or with a slash at its end."""
        if self.key.strip("/"):
            return self.key.rstrip("/") + "/"
        return ""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A listed object: its name below what was listed, its own address, its bytes (-1: unknown), and its etag."""

    name: str
    address: str
    size: int
    tag: str


class NotFetchedError(Exception):
    """An object was not fetched; the message is the reason."""


def is_store_address(path: str) -> bool:
    """Return whether a path is an address in a store."""
    return _ADDRESS.fullmatch(path) is not None


def is_address(path: str) -> bool:
    """Return whether a path looks like an address of any kind, or a chain of them."""
    return _FOREIGN.match(path) is not None


def masked_secrets(text: str) -> str:
    """Return a text as one short line, with what looks like a credential masked."""
    text = Redactor().text(" ".join(text.split()))
    for form in _SECRET_FORMS:
        text = form.sub(MASK, text)
    return text[:200]


def parse_address(text: str) -> StoreAddress:
    """Parse ``s3://bucket/key`` and the like.

    Raises:
        CorpusError: It has no bucket, or credentials in it.
    """
    match = _ADDRESS.fullmatch(text)
    assert match is not None, "is_store_address"
    protocol, bucket, key = match[1].lower(), match[2], (match[3] or "").removeprefix("/")
    if "@" in bucket:
        raise CorpusError(
            f"{masked_secrets(text)}: an address names only a bucket, without credentials or an account: "
            f"{_STORES[protocol].credentials}"
        )
    if not _BUCKET.fullmatch(bucket):
        raise CorpusError(f"{masked_secrets(text)} names no bucket: write {protocol}://bucket/folder")
    return StoreAddress(protocol, bucket, key)


class ObjectStore:
    """One bucket, open for listing and fetching.

    Raises:
        CorpusError: The store's package is not installed, or refuses the settings of this machine.
    """

    def __init__(self, address: StoreAddress, most: int) -> None:
        self._address = address
        self._most = most
        self._system = self._open_system()
        self._cache = ObjectCache() if address.protocol != "memory" else None
        self._scope = hashlib.sha256("\0".join(os.environ.get(name, "") for name in _PLACES).encode()).hexdigest()

    def _open_system(self) -> Any:
        try:
            import fsspec  # takes 50 ms, which only addresses pay for

            return fsspec.filesystem(self._address.protocol, use_listings_cache=False, skip_instance_cache=True)
        except ImportError:
            package = _STORES[self._address.protocol].package
            raise CorpusError(f"{self._address}: to read it, pip install {package}") from None
        except Exception as error:  # a store's package may raise anything
            raise self._refusal(error) from None

    def narrow_to(self, address: StoreAddress) -> None:
        """List below another address of the same bucket."""
        self._address = address

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache is not None:
            self._cache.close()

    def object_at(self, key: str) -> StoredObject | None:
        """Return the object with exactly this key, or None.

        Raises:
            CorpusError: The store cannot be reached, or does not permit it.
        """
        path = f"{self._address.bucket}/{key}"
        try:
            facts = call_within(OBJECT_SECONDS, lambda: self._system.info(path))
        except FileNotFoundError:
            return None
        except Exception as error:  # a store's package may raise anything
            raise self._refusal(error) from None
        if facts.get("type") != "file":
            return None
        return self._listed_object(key.rpartition("/")[2], path, int(facts.get("size") or 0), _tag_of(facts))

    def pages(self, seconds: float) -> Iterator[list[StoredObject]]:
        """Yield the objects below the address, some at a time.

        Raises:
            CorpusError: The bucket is missing, or the store cannot be reached or does not permit the listing.
            TimeoutError: The listing takes more than this many seconds.
        """
        if self._address.protocol == "s3":
            pages = self._amazon_pages()
        else:
            pages = self._folder_pages()
        deadline = time.monotonic() + seconds
        while True:
            try:
                page = call_within(max(0.0, deadline - time.monotonic()), lambda: next(pages, None))
            except TimeoutError:
                raise
            except FileNotFoundError:
                raise CorpusError(f"{self._address}: no such bucket or folder") from None
            except Exception as error:  # a store's package may raise anything
                raise self._refusal(error) from None
            if page is None:
                return
            yield page

    def _amazon_pages(self) -> Iterator[list[StoredObject]]:
        """List by thousands: fsspec itself would return nothing before the whole bucket is listed."""
        bucket, prefix = self._address.bucket, self._address.folder
        place: dict[str, str] = {}
        while True:
            answer = self._system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **place)
            entries = answer.get("Contents", [])
            yield [
                self._listed_object(one["Key"][len(prefix) :], f"{bucket}/{one['Key']}", one["Size"], _tag_of(one))
                for one in entries
            ]
            if not answer.get("IsTruncated"):
                return
            place = {"ContinuationToken": answer["NextContinuationToken"]}

    def _folder_pages(self) -> Iterator[list[StoredObject]]:
        """List folder by folder."""
        top = f"{self._address.bucket}/{self._address.folder}".rstrip("/")
        pending = [top]
        while pending:
            folder = pending.pop()
            objects = []
            for entry in self._system.ls(folder, detail=True):
                path = str(entry["name"]).lstrip("/")
                if not path.startswith(folder.rstrip("/") + "/"):
                    continue  # the folder itself
                if entry["type"] == "directory":
                    pending.append(path)
                else:
                    name = path[len(top) + 1 :]
                    objects.append(self._listed_object(name, path, int(entry.get("size") or 0), _tag_of(entry)))
            yield objects

    def _listed_object(self, name: str, path: str, size: int, tag: str) -> StoredObject:
        return StoredObject(name, f"{self._address.protocol}://{path}", size, tag)

    def kept_bytes(self, one: StoredObject) -> bytes | None:
        """Return the bytes of an object if they are in the cache; called from one thread only."""
        if self._cache is None or not one.tag:
            return None
        return self._cache.stored_bytes(self._cache_key(one))

    def keep_bytes(self, one: StoredObject, data: bytes) -> None:
        """Keep fetched bytes in the cache, unless the object has changed since the listing."""
        if self._cache is not None and one.tag and len(data) == one.size:
            self._cache.keep_bytes(self._cache_key(one), data)

    def charset_of(self, one: StoredObject) -> str | None:
        """Return None: the content types that stores declare are seldom right."""
        return None

    def _cache_key(self, one: StoredObject) -> str:
        return f"{one.address}\0{one.size}\0{one.tag}\0{self._scope}"

    def fetch(self, one: StoredObject) -> bytes:
        """Return the bytes of an object from the store, at most one more than the limit of a file.

        Raises:
            NotFetchedError: It is gone, or cannot be read.
        """
        path = one.address.removeprefix(f"{self._address.protocol}://")
        try:
            return bytes(self._system.cat_file(path, start=0, end=self._most + 1))
        except FileNotFoundError:
            raise NotFetchedError("it was deleted after the listing") from None
        except PermissionError as error:
            raise NotFetchedError(f"no permission to read it: {masked_secrets(str(error))}") from None
        except Exception as error:  # a store's package may raise anything
            raise NotFetchedError(f"it cannot be fetched: {_error_text(error)}") from None

    def _refusal(self, error: Exception) -> CorpusError:
        """Return the error to raise for an error of the store."""
        if isinstance(error, TimeoutError):
            return CorpusError(f"{self._address} cannot be read: the store did not answer in {OBJECT_SECONDS:g} s")
        hint = _STORES[self._address.protocol].credentials
        return CorpusError(f"{self._address} cannot be read: {_error_text(error)} ({hint})")


def seconds_for(one: StoredObject) -> float:
    """Return how many seconds an object may take."""
    return OBJECT_SECONDS + SECONDS_FOR_MB * max(one.size, 0) / 1e6


def _error_text(error: Exception) -> str:
    return masked_secrets(str(error)) or type(error).__name__


def _tag_of(facts: dict[str, Any]) -> str:
    """Return an object's etag, or else its time of change, or else "", which means that it is not cached."""
    return next((str(facts[name]) for name in _TAG_NAMES if facts.get(name)), "")
