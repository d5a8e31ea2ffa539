"""The memory of a process and all that it started, watched from outside while it works."""

import threading

import psutil

EVERY_SECONDS = 0.05


class Watched:
    """The resident memory of a process and all that it started, in mebibytes, while the context lasts."""

    def __init__(self, process_id: int) -> None:
        self._process = psutil.Process(process_id)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watched":
        self.before = self.peak = self._resident()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self.peak = max(self.peak, self._resident())

    def _resident(self) -> float:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 2**20
