"""The files of a registered model: their digest, and a copy on this machine of those from a store."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from warehouse.commit_lock import FolderLock
from warehouse.connection import LOCK_TIMEOUT_SECONDS, writing_to

UNFINISHED = "fetch-"
"""How the folder of a download begins that is not checked yet."""


class DamagedFilesError(ValueError):
    """A model's files are not those that were registered."""


def bundle_digest(folder: Path) -> str:
    """Give the SHA-256 digest of a folder's files: their relative names, in order, and contents."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        found.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()


def require_digest(folder: Path, digest: str, place: str) -> None:
    """Refuse files that are not those that were registered.

    Args:
        folder: Where the files are.
        digest: What was registered.
        place: What to call the folder where it is only a copy.

    Raises:
        DamagedFilesError: if a file is missing, added or changed.
    """
    found = bundle_digest(folder)
    if found != digest:
        message = (
            f"{place} must hold files of digest {digest}, as registered, and holds "
            f"{f'files of {found}' if any(folder.rglob('*')) else 'none'}; restore them from a "
            "backup, or train again"
        )
        raise DamagedFilesError(message)


def fetch(cache: Path, digest: str, download: Callable[[Path], Path], place: str) -> Path:
    """Give a folder of this machine with a model's files; they are downloaded once.

    A download becomes visible as a whole, after its check. One process or thread downloads at a
    time; what a killed one left behind goes with the next download. A damaged copy is fetched anew.

    Args:
        cache: Folder of the copies.
        digest: What was registered.
        download: Puts the files under a folder, and gives where.
        place: Where they come from, for messages.

    Raises:
        DamagedFilesError: if the store holds other files than were registered.
        BusyError: if another process downloads for longer than this one waits.
        WarehouseError: if the cache cannot be written.
    """
    copy = cache / digest
    if _is_whole(copy, digest):
        return copy
    with writing_to(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with FolderLock(cache / "fetch.lock", LOCK_TIMEOUT_SECONDS).held(), writing_to(cache):
        if _is_whole(copy, digest):
            return copy  # another fetched it while this one waited
        for left in (copy, *cache.glob(f"{UNFINISHED}*")):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=cache) as folder:
            files = download(Path(folder))
            require_digest(files, digest, place)
            files.rename(copy)
    return copy


def _is_whole(copy: Path, digest: str) -> bool:
    return copy.is_dir() and bundle_digest(copy) == digest
