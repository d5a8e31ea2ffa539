"""Claims studies until none waits; prints "ready", waits for a line, prints the claimed (id, attempt) pairs as JSON."""

import json
import sys

from storage.database import create_database, session
from storage.records import now
from storage.studies import claim

url, worker_id = sys.argv[1:]
engine = create_database(url)
with engine.connect():
    sys.stdout.write("ready\n")
    sys.stdout.flush()
sys.stdin.readline()
claimed = []
while True:
    with session(engine) as opened:
        study = claim(opened, worker_id=worker_id, now=now(), lease_seconds=600)
    if study is None:
        break
    claimed.append((study.id, study.attempt))
sys.stdout.write(json.dumps(claimed) + "\n")
engine.dispose()
