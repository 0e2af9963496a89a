"""One of several processes that make shards: ``python -m hasten.generating.worker PLACE``.

It reads JSON lines from stdin: first the job, then a shard at a time. It writes JSON lines: the
job's identity once the model is loaded, how many pictures were made, what became of each shard, and
last the error that ended it, if any. It ends when stdin does.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import TextIO

import torch

from hasten.core.errors import HastenError
from hasten.core.files import JsonObject
from hasten.generating.job import Job
from hasten.generating.maker import Maker


def main() -> None:
    """Make shards until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_leave_with_parent, args=(sys.stdin, lines), daemon=True).start()

    def say(**body: object) -> None:
        out.write(json.dumps(body) + "\n")
        out.flush()

    try:
        job = Job.from_json(lines.get())
        torch.set_num_threads(job.threads)
        maker = Maker(job, int(sys.argv[1]))
        say(identity=maker.identity)
        while True:
            body: JsonObject = json.loads(lines.get())
            outcome = maker.make(body["shard"], lambda shard, n: say(shard=shard, progress=n))
            say(shard=outcome.shard, state=outcome.state, message=outcome.message)
    except HastenError as error:
        say(error=str(error), status=error.exit_status)
    except Exception as error:
        if os.environ.get("HASTEN_TRACEBACK"):
            raise
        say(error=f"{type(error).__name__}: {error}", status=1)


def _leave_with_parent(stdin: TextIO, lines: queue.Queue[str]) -> None:
    for line in stdin:
        lines.put(line)
    os._exit(0)  # the parent is gone: what is half done will be made again


if __name__ == "__main__":
    main()
