"""The renderer in a process of its own: it draws the next batches while this one uses the last, with no lock between them.

Batches come through a pipe as safetensors, each behind its length.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import safetensors.torch
import torch
from torch import Tensor

AHEAD = 4  # batches drawn before they are asked for: some 45 MB each
LENGTH = 8  # bytes


def rendered(seed: int, start: int, stop: int, batch: int) -> Iterator[dict[str, Tensor]]:
    """`render` of objects start to stop - 1, `batch` at a time. Raises RuntimeError if the renderer ends before the last."""
    command = [sys.executable, "-m", __name__, *(str(n) for n in (seed, start, stop, batch))]
    paths = os.pathsep.join(path for path in sys.path if path)
    # A session of its own: Ctrl-C reaches this process alone, which then ends the renderer.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
                               env={**os.environ, "PYTHONPATH": paths})
    assert process.stdout is not None
    with process, process.stdout as pipe, ThreadPoolExecutor(1) as reader:
        try:
            left = len(range(start, stop, batch))
            coming = deque(reader.submit(_read, pipe) for _ in range(min(AHEAD, left)))
            while coming:
                content = coming.popleft().result()
                left -= 1
                if len(coming) < left:
                    coming.append(reader.submit(_read, pipe))
                yield safetensors.torch.load(content)
        finally:
            process.kill()


def _read(pipe: IO[bytes]) -> bytes:
    length = int.from_bytes(pipe.read(LENGTH), "little")
    content = pipe.read(length)
    if not length or len(content) < length:
        raise RuntimeError("the process that draws the simulated sky ended early; its own words are above")
    return content


def write(seed: int, start: int, stop: int, batch: int, pipe: IO[bytes]) -> None:
    """The renderer's side: draw and write until all is done or nobody reads any more."""
    from engine.simulate import render

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the reader has work of its own
    try:
        for first in range(start, stop, batch):
            content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in render(
                seed, torch.arange(first, min(first + batch, stop))).items()})
            pipe.write(len(content).to_bytes(LENGTH, "little") + content)
            pipe.flush()
    except BrokenPipeError:
        os._exit(1)  # whoever asked is gone


if __name__ == "__main__":
    seed, start, stop, batch = (int(n) for n in sys.argv[1:])
    write(seed, start, stop, batch, sys.stdout.buffer)
