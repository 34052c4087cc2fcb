"""The process that works while the page is already open: runs one job of the engine and prints its Steps as JSON lines."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from engine.steps import Step


def main(request: dict[str, Any]) -> int:
    """request: {"job": "demo" | "prepare", and that job's arguments}. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us, too, but it is the server that ends us
    from engine import jobs

    known: dict[str, Callable[..., Iterator[Step]]] = {"demo": jobs.demo, "prepare": jobs.prepare}
    job = known[request.pop("job")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a generator that is closed leaves whole batches
    try:
        for step in job(**request):
            print(json.dumps({"fraction": step.fraction, "note": step.note}), flush=True)
    except (ValueError, KeyError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(json.dumps({"error": str(text)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
