"""A store of objects behind a URI: a folder, or a bucket of an S3 store, by fsspec.

What is written as a folder is whole or not there: its manifest, with size and sha256 of each file, is written last. Keys are
never written twice with different contents, so a node that was cut off and comes back cannot harm what others read.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from paraphrase.core.errors import InputError, first_line
from paraphrase.core.files import file_hash, read_text, replace_file
from paraphrase.sweep.patience import OutOfPatience, patiently

MANIFEST = "MANIFEST.json"
CONNECT_SECONDS, READ_SECONDS = 10, 60
CHECK_SECONDS = 30.0
"""How long a store may not answer before a sweep begins."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, InputError, ImportError)
"""Errors of the store that no waiting mends."""

NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
"""Errors of the S3 client's own."""

Value = TypeVar("Value")


class Damaged(RuntimeError):
    """Objects that are not what was written: their manifest says otherwise, or is not there."""


def _passing(error: BaseException) -> bool:
    return not isinstance(error, (*LASTING, Damaged)) and type(error).__name__ not in NO_CREDENTIALS


class Store:
    """Objects by keys such as `caches/KEY/meta.json`.

    Args:
        uri: `file:///shared/folder` or `s3://bucket/prefix`; credentials and endpoint come from the environment
            (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, or what the machine is given).

    Raises:
        InputError: if nothing is known of such a URI.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri.rstrip("/")
        self.patience: float | None = None
        kind, sign, _ = uri.partition("://")
        options: dict[str, Any] = {}
        if kind == "file":
            options = {"auto_mkdir": True}
        elif kind == "s3":
            timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
            # named, though botocore would find it: fsspec keeps one instance for equal arguments, of whatever endpoint
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            options = {"use_listings_cache": False, "config_kwargs": timeouts, "endpoint_url": endpoint}
        try:
            if not sign:
                raise ValueError("is no URI")
            self.files, self.root = fsspec.core.url_to_fs(self.uri, **options)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"store: {uri}: {first_line(error)}; `file://FOLDER`, or `s3://BUCKET/PREFIX` with the extra `cluster` installed"
            ) from None

    def _try(self, operation: Callable[[], Value]) -> Value:
        """Raises OutOfPatience if the store is away for too long or refuses access, which a resume may find mended."""
        try:
            return patiently(operation, f"the store {self.uri}", _passing, None, self.patience)
        except Exception as error:
            if isinstance(error, PermissionError) or type(error).__name__ in NO_CREDENTIALS:
                raise OutOfPatience(f"the store {self.uri} refuses access ({first_line(error)})") from None
            raise

    def check(self) -> None:
        """Write, read, list and delete an object.

        Raises:
            InputError: if that cannot be done.
        """
        key, patience = f"probe/{uuid.uuid4().hex}", self.patience
        self.patience = CHECK_SECONDS
        try:
            self.write(key, b"paraphrase")
            if self.read(key) != b"paraphrase" or self.keys(key) != [key]:
                raise InputError(f"store: {self.uri}: what is written there is not found there")
            self.delete(key)
        except (OSError, OutOfPatience) as error:
            raise InputError(f"store: {self.uri}: {first_line(error)}") from None
        finally:
            self.patience = patience

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            FileNotFoundError: if it is not there.
        """
        return self._try(lambda: self.files.cat_file(self._path(key)))

    def write(self, key: str, data: bytes) -> None:
        """Write an object in one piece."""
        self._try(lambda: self._write(key, data))

    def _write(self, key: str, data: bytes) -> None:
        if "file" in self.files.protocol:  # else half of it could be seen
            replace_file(Path(self._path(key)), data)
        else:
            self.files.pipe_file(self._path(key), data)

    def has(self, key: str) -> bool:
        """Whether there is an object."""
        return self._try(lambda: self.files.isfile(self._path(key)))

    def whole(self, key: str) -> bool:
        """Whether there is a folder that was written to its end."""
        return self.has(f"{key}/{MANIFEST}")

    def keys(self, prefix: str) -> list[str]:
        """All objects below a prefix."""
        try:
            found = self._try(lambda: self.files.find(self._path(prefix)))
        except FileNotFoundError:
            return []
        return [name.removeprefix(self.root).lstrip("/") for name in found]

    def delete(self, prefix: str) -> None:
        """Delete all objects below a prefix, if there are any; those with a manifest are no longer whole first."""
        names = sorted(self.keys(prefix), key=lambda key: not key.endswith(MANIFEST))
        for key in names:
            with suppress(FileNotFoundError):
                self._try(lambda key=key: self.files.rm_file(self._path(key)))  # type: ignore[misc]
        if names and "file" in self.files.protocol:
            shutil.rmtree(self._path(prefix), ignore_errors=True)

    def put(self, folder: Path, key: str) -> None:
        """Write a folder's files below a key, and last what says that they are whole."""
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        about = describe_files(folder, files)
        for path in files:
            place = self._path(f"{key}/{path.relative_to(folder).as_posix()}")
            self._try(lambda path=path, place=place: self.files.put_file(str(path), place))  # type: ignore[misc]
        self.write(f"{key}/{MANIFEST}", json.dumps(about).encode())

    def manifest(self, key: str) -> dict[str, Any]:
        """Name -> bytes and sha256 of the files of a folder that was written whole.

        Raises:
            Damaged: if there is none.
        """
        try:
            return json.loads(self.read(f"{key}/{MANIFEST}"))
        except (FileNotFoundError, ValueError):
            raise Damaged(f"{self.uri}/{key}: was not written to its end") from None

    def get(self, key: str, folder: Path) -> None:
        """Bring a folder that was written whole to this machine, in one rename; what is not as it was written is not taken.

        Raises:
            Damaged: names the object that is not what its manifest says.
        """
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            for name, about in self.manifest(key).items():
                place = part / name
                place.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(f"{key}/{name}", place, about)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _fetch(self, key: str, place: Path, about: dict[str, Any]) -> None:
        """Bring an object, a second time where the first came damaged."""
        for _ in range(2):
            try:
                self._try(lambda: self.files.get_file(self._path(key), str(place)))
            except FileNotFoundError:
                break
            if place.stat().st_size == about["bytes"] and file_hash(place) == about["sha256"]:
                return
        raise Damaged(f"{self.uri}/{key}: is not what was written")


def describe_files(folder: Path, files: list[Path]) -> dict[str, dict[str, Any]]:
    """A manifest: name -> bytes and sha256."""
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": file_hash(p)} for p in files}


def check_files(folder: Path) -> None:
    """Raises Damaged if a folder on this machine is not what its manifest says."""
    try:
        about = json.loads(read_text(folder / MANIFEST))
        for name, wanted in about.items():
            if (folder / name).stat().st_size != wanted["bytes"] or file_hash(folder / name) != wanted["sha256"]:
                raise Damaged(f"{folder / name}: is not what was written")
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder}: {first_line(error)}") from None
