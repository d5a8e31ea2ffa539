"""Opens the workspace that the environment describes; prints "ready" and waits for a line before."""

import sys

from storage.settings import Settings
from storage.workspace import open_workspace

settings = Settings()
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
open_workspace(settings).close()
