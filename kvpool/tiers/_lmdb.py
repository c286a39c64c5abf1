"""`Database`: an LMDB environment that is opened with care, grows, and can be compacted."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import lmdb.verify

from kvpool._process import current, in_child_of
from kvpool.errors import DamagedTierError, TierError
from kvpool.tiers._folder import Folder
from kvpool.tiers._gate import Gate

__all__ = ["DATABASES", "Database", "FullError"]

DATABASES: Final = (b"values", b"order", b"uses", b"about")
_DATA: Final = "data.mdb"
_FILES: Final = (_DATA, "lock.mdb")
_SET_ASIDE: Final = "data.mdb.damaged"
_COMPACTED: Final = "data.mdb.compacted"
_READERS: Final = 512
_PATIENCE: Final = 10.0
"""Seconds that a call waits for others of its process, if another process made the store larger."""
_HARDLY_ANY: Final = 1 << 20
"""Bytes: a file system with fewer free ones is full."""
_ABOUT: Final = b"format"
_FORMAT: Final = b"kvpool tier 1"

_structural_problems: Callable[[str], list[str]] = lmdb.verify.verify

_log = logging.getLogger("kvpool.tiers")


class FullError(Exception):
    """No page is free, or none that can be used before readers and transactions have ended.

    The text says whether the file or the disk is full.
    """


class Database:
    """The store of a tier on a disk.

    Parameters
    ----------
    path : Path
        The directory.
    nbytes : int
        The most bytes of the file.
    sync : bool
        Whether a commit waits until the disk has it.
    readonly : bool
    check : bool
        Whether the structure of the file is checked before LMDB reads it. A file that is damaged
        is set aside, and the store begins empty.

    Raises
    ------
    TierError
        The store cannot be opened, or is damaged and cannot be set aside.

    Notes
    -----
    LMDB trusts its file: a damaged page can end the process. The check walks through all pages
    but those of large values, which have digests of their own. It needs that no other process
    writes, so only the first process that opens a store checks it.
    """

    def __init__(self, path: Path, nbytes: int, *, sync: bool, readonly: bool, check: bool) -> None:
        self.gate = Gate()
        self._sync, self._readonly, self._nbytes = sync, readonly, nbytes
        self._pid = current.pid
        self._is_closed = False
        self._folder = Folder(path, _FILES, readonly=readonly)
        try:
            if check and (self._folder.is_alone or (readonly and _is_on_readonly_disk(self.path))):
                self._check_structure()
            self._open()
            self._folder.share()
        except BaseException:
            self._folder.close()
            raise

    @property
    def path(self) -> Path:
        """The directory, absolute."""
        return self._folder.path

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and of this process."""
        return not self._is_closed and self._pid == current.pid

    def _open(self) -> None:
        """Open the environment and its databases."""
        options: dict[str, Any] = {
            "map_size": self._nbytes,
            "max_dbs": len(DATABASES),
            "max_readers": _READERS,
            "max_spare_txns": 4,
            "mode": 0o600,
            "sync": self._sync,
            "readonly": self._readonly,
        }
        with self.errors("open the store"):
            try:
                self._environment = lmdb.open(str(self.path), **options)
            except lmdb.Error:
                if not self._readonly or not _is_on_readonly_disk(self.path):
                    raise
                # No process can write there, so none has to be told of readers.
                self._environment = lmdb.open(str(self.path), lock=False, **options)
            self.values, self.order, self.uses, self.about = (
                self._environment.open_db(name, create=not self._readonly) for name in DATABASES
            )
            self._environment.reader_check()
            with self._environment.begin(write=not self._readonly) as txn:
                found = bytes(txn.get(_ABOUT, _FORMAT, db=self.about))
                if not self._readonly and txn.get(_ABOUT, db=self.about) is None:
                    txn.put(_ABOUT, found, db=self.about)
        if found != _FORMAT:
            self._environment.close()
            raise TierError(
                f"the store in {self.path} is a {found.decode(errors='replace')!r}, "
                f"this version of kvpool reads {_FORMAT.decode()!r}"
            )

    def _check_structure(self) -> None:
        """Set a damaged file aside. No other process uses the store.

        Raises
        ------
        DamagedTierError
            The file is damaged, and the store was opened for reading alone.
        TierError
            The file cannot be read.
        """
        data = self.path / _DATA
        if not data.exists() or not data.stat().st_size:
            return
        try:
            problems = _structural_problems(str(self.path))
        except lmdb.verify.VerifyError as error:
            problems = [str(error)]
        except OSError as error:
            raise TierError(f"cannot read {data}: {error.strerror}") from error
        if not problems:
            return
        text = f"the store in {self.path} is damaged ({problems[0]})"
        if self._readonly:
            raise DamagedTierError(f"{text}; it was opened for reading alone, so it stays as it is")
        aside = self.path / _SET_ASIDE
        data.replace(aside)
        (self.path / "lock.mdb").unlink(missing_ok=True)
        _log.warning("%s; it begins empty, and the damaged file is kept as %s", text, aside)

    # -- transactions ------------------------------------------------------------------------

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn errors of LMDB and of the system into `TierError`, which says what was tried.

        Raises
        ------
        FullError
            No page was left in the file, or no room on the disk.
        """
        try:
            yield
        except lmdb.MapFullError as error:
            raise FullError("no page of its file is free") from error
        except (lmdb.Error, OSError) as error:
            text = str(error)
            if isinstance(error, lmdb.Error) and self._is_disk_full(error):
                raise FullError(f"the disk has no room for more of its file: {text}") from error
            if "already open in this process" in text:
                text = (
                    "this process has it open already, or the process that forked this one had; "
                    "share one tier in a process, and open it after the fork"
                )
            raise TierError(f"cannot {what} in {self.path}: {text}") from error

    def _is_disk_full(self, error: lmdb.Error) -> bool:
        """Return whether a write failed because the file system has no room.

        LMDB takes a write that was cut short for an error of the device.
        """
        if error.code not in {errno.EIO, errno.ENOSPC, errno.EDQUOT}:
            return False
        return error.code != errno.EIO or shutil.disk_usage(self.path).free < _HARDLY_ANY

    @contextmanager
    def transaction(self, what: str, *, write: bool = False) -> Iterator[Any]:
        """Give a transaction, which is given up at the end of the block unless it is committed.

        Parameters
        ----------
        what : str
            What is tried, for the text of an error.
        write : bool, default False
            Waits for a transaction of any process that writes.

        Raises
        ------
        TierError
            The store is closed or cannot be read.
        ForkedProcessError
            It belongs to the parent of this process.
        """
        deadline = time.monotonic() + _PATIENCE
        gate, visit, txn = self.gate, object(), None
        try:
            while True:
                self.check_open()
                gate.enter(visit)
                try:
                    self.check_open()  # it may have been closed meanwhile
                    with self.errors(what):
                        txn = self._environment.begin(write=write, buffers=True)
                    break
                except TierError as error:
                    gate.inside.pop(visit, None)
                    self._mend(error, deadline)
            yield txn
        finally:
            try:
                if txn is not None:
                    with contextlib.suppress(lmdb.Error):  # a commit that failed has ended it
                        txn.abort()
            finally:
                gate.inside.pop(visit, None)

    @contextmanager
    def writing(self, what: str) -> Iterator[Any]:
        """Give a transaction that writes, and commit it at the end of the block.

        Raises
        ------
        FullError
            No page was left in the file, or no room on the disk. Nothing was written.
        TierError
            The store cannot be written. Nothing was written.
        """
        with self.errors(what), self.transaction(what, write=True) as txn:
            yield txn
            txn.commit()

    def check_open(self) -> None:
        """Raise `TierError` if the store is closed, and `ForkedProcessError` in a child."""
        if self._pid != current.pid:
            raise in_child_of(self._pid, "tier")
        if self._is_closed:
            raise TierError(f"the tier 'disk:{self.path}' is closed")

    def _mend(self, error: TierError, deadline: float) -> None:
        """Do what makes a failed begin of a transaction succeed; raise its error if nothing can."""
        cause = error.__cause__
        if isinstance(cause, lmdb.ReadersFullError):
            if self._environment.reader_check():
                return
            raise error
        if not isinstance(cause, lmdb.MapResizedError | lmdb.PanicError):
            raise error
        if self.gate.is_mine:
            raise TierError(
                f"another process has made the store in {self.path} larger, and it cannot be "
                "mapped anew while this thread reads it; end the block of that read first"
            ) from cause
        # The map is replaced, so no transaction of this process may be open.
        with self.gate.alone(deadline - time.monotonic()) as is_alone, self.errors("map the store"):
            if not is_alone:
                raise error
            if isinstance(cause, lmdb.PanicError):  # a write of the system failed half-way
                self._environment.close()
                self._open()
            else:
                self._environment.set_mapsize(0)

    def used(self, txn: Any) -> int:
        """Return the bytes of all pages in use, as a transaction sees them."""
        pages = page_size = 0
        for database in (self.values, self.order, self.uses, self.about):
            stat = txn.stat(database)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            page_size = stat["psize"]
        return pages * page_size

    def let_pages_go(self) -> None:
        """Have pages that were freed become usable: two commits have to follow, and no reader."""
        self._environment.reader_check()
        for number in range(2):
            with self.writing("write") as txn:
                txn.put(b"turn", b"%d" % number, db=self.about)

    # -- the whole store ---------------------------------------------------------------------

    def sync(self) -> None:
        """Wait until the disk has everything that was committed."""
        if not self._readonly:
            with contextlib.suppress(FullError), self.errors("write"):
                self._environment.sync(force=True)

    def compact(self) -> tuple[int, int]:
        """Write the store anew without free pages; return the bytes of its file before and after.

        Raises
        ------
        TierError
            The store is in use, or there is no room for a second file beside the first one.
        """
        self.check_open()
        with self.gate.alone(_PATIENCE) as is_alone, self.errors("compact the store"):
            if self._readonly or not is_alone or not self._folder.be_alone():
                raise TierError(
                    f"the store in {self.path} cannot be compacted: it is in use, or was opened "
                    "for reading alone"
                )
            try:
                data, compacted = self.path / _DATA, self.path / _COMPACTED
                before = data.stat().st_size
                compacted.unlink(missing_ok=True)
                descriptor = os.open(compacted, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    self._environment.copyfd(descriptor, compact=True)
                    os.fsync(descriptor)
                except BaseException:
                    compacted.unlink()
                    raise
                finally:
                    os.close(descriptor)
                self._environment.close()
                compacted.replace(data)
                self._open()
                return before, data.stat().st_size
            finally:
                self._folder.share()

    def close(self) -> None:
        """Close the store once no transaction of this process is open; in a child do nothing."""
        if self._pid != current.pid or self._is_closed:
            return
        self._is_closed = True
        with self.gate.alone() as is_alone:
            if is_alone:  # else a block of this very thread still shows the store
                self._environment.close()
        self._folder.close()

    def enter_child(self) -> None:
        """Give up what a child of `os.fork` has copies of."""
        self.gate = Gate()
        self._folder.close()


def _is_on_readonly_disk(path: Path) -> bool:
    """Return whether no process can write to a directory, because its file system takes nothing."""
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)
