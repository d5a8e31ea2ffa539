"""A worker process whose sampler computes for three seconds: `slow_sampler.py NAME`, as `worker.py`.

While it does, a file `computing` lies in the installation's folder.
"""

import logging
import sys
import threading

from storage.workspace import open_workspace
from tests.tuning import stand_ins
from tuning import search
from tuning.worker import run_worker, worker_name

if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s: %(message)s")
    workspace = open_workspace()
    mark = workspace.settings.home / "computing"
    search.make_sampler = lambda *_, **__: stand_ins.SlowSampler(mark)
    run = getattr(stand_ins, sys.argv[1])
    run_worker(workspace, worker_id=worker_name(), stop=threading.Event(), run=run)
