"""A worker process whose trials are run by one of the stand-ins of the tests: `worker.py NAME`."""

import logging
import signal
import sys
import threading

from storage.workspace import open_workspace
from tests.tuning import stand_ins
from tuning.worker import run_worker, worker_name

if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("tuning").setLevel("INFO")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_worker(open_workspace(), worker_id=worker_name(), stop=stop, run=getattr(stand_ins, sys.argv[1]))
