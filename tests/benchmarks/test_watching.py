"""The memory that is watched is that of the process and of what it started."""

import subprocess
import sys
import time

import pytest

from benchmarks.watching import Watched

MIB = 2**20
# Takes 64 MiB itself and lets a process of its own take as much; both stay until they are told to end.
SCRIPT = f"""
import subprocess, sys
if len(sys.argv) > 1:
    held = b"x" * {64 * MIB}
    print("taken", flush=True)
    sys.stdin.readline()
    sys.exit()
print("ready", flush=True)
sys.stdin.readline()
held = b"x" * {64 * MIB}
child = subprocess.Popen([sys.executable, __file__, "child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print("taken", flush=True)
sys.stdin.readline()
child.communicate("end")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of processes is read from Linux's /proc")
def test_peak_counts_the_process_and_what_it_started(tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "takes.py"
    script.write_text(SCRIPT)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"
        with Watched(process.pid) as memory:
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "taken\n"
            deadline = time.monotonic() + 30
            while memory.peak - memory.before < 120 and time.monotonic() < deadline:
                time.sleep(0.01)
        process.stdin.write("end\n")
        process.stdin.flush()
    assert 120 < memory.peak - memory.before < 400
