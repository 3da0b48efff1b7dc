"""Which of the processes that torchrun started failed, known through the store by which they met."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

_WITH_WORDS = (ImportError, OSError, ValueError, TypeError, RuntimeError)  # whose messages are meant for users
_FAILED = "ckrm/failed"
_INTERVAL = 1.0  # seconds between two signs of life
_SILENCE = 4.0  # seconds after which a process without one is gone


class Failures:
    """What one process lets the others know of itself, and learns of them. Use it until `close`.

    A store that is gone itself, as with the host of the first process, says nothing.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """Begins to give signs of life, through connections of its own."""
        self._rank, self._size = rank, size
        self._store, self._of_thread = store.clone(), store.clone()  # type: ignore[attr-defined]
        self._store.set(_host(rank), socket.gethostname())
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the signs of life."""
        self._closed.set()
        self._thread.join()

    def report(self, error: BaseException) -> None:
        """Lets the others know that this process failed; they name the first that does."""
        with suppress(Exception):
            words = str(error) if isinstance(error, _WITH_WORDS) else f"{type(error).__name__} {error}"
            self._store.compare_set(_FAILED, "", json.dumps([self._rank, words]))

    def of_another(self) -> str | None:
        """The message of the process that failed first, if it is another one."""
        with suppress(Exception):
            if self._store.check([_FAILED]):
                rank, words = json.loads(self._store.get(_FAILED))
                return None if rank == self._rank else f"{self._named(rank)} failed: {words}"
        return None

    def gone(self) -> str | None:
        """Which processes have ended without a word, found in a few seconds."""
        with suppress(Exception):
            before = self._beats()
            time.sleep(_SILENCE)
            after = self._beats()
            silent = [rank for rank in range(self._size) if before[rank] == after[rank]]
            if silent:
                named = ", ".join(map(self._named, silent))
                return f"{named} {'is' if len(silent) == 1 else 'are'} gone: killed, or the host is down"
        return None

    def _beats(self) -> list[int]:
        return [self._store.add(_beat(rank), 0) for rank in range(self._size)]

    def _give_signs(self) -> None:
        with suppress(Exception):
            while not self._closed.wait(_INTERVAL):
                self._of_thread.add(_beat(self._rank), 1)

    def _named(self, rank: int) -> str:
        host = self._store.get(_host(rank)).decode() if self._store.check([_host(rank)]) else "an unknown host"
        return f"rank {rank} of {self._size} on {host}"


def _host(rank: int) -> str:
    return f"ckrm/host/{rank}"


def _beat(rank: int) -> str:
    return f"ckrm/beat/{rank}"
