"""A job that counts: `python count_slowly.py KEY STEPS SECONDS_EACH [ERROR]`; ERROR is raised at the last step."""

import sys
import time
from typing import Any

from storage.settings import Settings
from tuning.errors import BadDataset
from tuning.jobs import Progress, work


def main(key: str, steps: str, seconds: str, error: str = "") -> None:
    """Count in this process."""

    def count(progress: Progress) -> Any:
        for step in range(int(steps)):
            progress(step, int(steps), f"counting {step}")
            time.sleep(float(seconds))
        if error == "ours":
            raise BadDataset("There are no pictures. Add some.")
        if error:
            raise RuntimeError("a bug")
        return {"counted": int(steps)}

    work(Settings(), key, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
