"""The supervisor of an installation's workers alone: `supervisor.py HOME`."""

import signal
import sys
import threading
from pathlib import Path

from storage.settings import Settings
from storage.workspace import open_workspace
from tests.tuning import stand_ins
from tuning.supervisor import ProcessSpec, up

if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    home = sys.argv[1]
    worker = ProcessSpec(
        name="worker 1",
        command=(sys.executable, str(Path(__file__).with_name("worker.py")), stand_ins.slowly.__name__),
        environment={
            "SIMPLENET_HOME": home,
            "SIMPLENET_DEVICE": "cpu",
            "SIMPLENET_PRECISION": "fp32",
            "SIMPLENET_LEASE_SECONDS": "4",
            "SIMPLENET_HEARTBEAT_SECONDS": "1",
        },
    )
    up(open_workspace(Settings(home=home)), [worker], stop=stop, on_change=lambda _: None)
