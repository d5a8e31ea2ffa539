"""Takes slots of a study until none is left; prints "ready", waits for a line, prints their numbers as JSON."""

import json
import sys

from storage import slots
from storage.database import create_database, session

url, worker_id, study_id, limit = sys.argv[1:]
engine = create_database(url)
with engine.connect():
    sys.stdout.write("ready\n")
    sys.stdout.flush()
sys.stdin.readline()
taken = []
while True:
    with session(engine) as opened:
        slot = slots.claim_slot(opened, study_id=int(study_id), worker_id=worker_id, limit=int(limit))
    if slot is None:
        break
    taken.append(slot.number)
    with session(engine) as opened:
        # Every third is given back once: it is then somebody's again, and nothing is counted twice.
        if slot.number % 3 == 0 and slot.attempt == 1:
            slots.free_slot(opened, slot)
            taken.pop()
        else:
            slots.finish_slot(opened, slot)
sys.stdout.write(json.dumps(taken) + "\n")
engine.dispose()
