"""Ours beside the reference: what a line of the comparison is, how programs take turns, and what the machine is."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.models.processor import fast_bfloat16, has_amx

Ways = dict[str, Callable[[], Any]]
Seconds = tuple[float, float]  # by the clock, and of the processor


@dataclass(frozen=True)
class Line:
    """One task done by one program. ratios: its seconds over the reference's; share: of a plain product's speed.

    figures: whatever else is asked of it, such as the share of equal tokens.
    """

    task: str
    program: str
    seconds: float
    cpu_seconds: float
    ratio: float
    cpu_ratio: float
    gflops: float | None = None
    share: float | None = None
    peak_mb: float | None = None
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """A plain product of matrices, (rows, inner) x (inner, columns): as fast as this machine multiplies."""

    rows: int = 2048
    inner: int = 2048
    columns: int = 2048
    dtype: torch.dtype = torch.float32

    @property
    def operations(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns

    def call(self, device: str = "cpu") -> Callable[[], Any]:
        a, b = (torch.ones(n, self.inner, dtype=self.dtype, device=device) for n in (self.rows, self.columns))
        return lambda: torch.nn.functional.linear(a, b)


@dataclass(frozen=True)
class Program:
    """One way to do a task. operations: two a multiplication; product: the one whose speed it is compared with."""

    call: Callable[[], Any]
    operations: float
    product: Product


def compared(task: str, programs: Mapping[str, Program], repeats: int) -> list[Line]:
    """A line for each program, the first of which is the reference; their plain products take turns with them."""
    products = {program.product: f"product {i}" for i, program in enumerate(programs.values())}
    ways = {name: program.call for name, program in programs.items()}
    seconds = by_turns(ways | {name: product.call() for product, name in products.items()}, repeats)
    lines, reference = [], seconds[next(iter(programs))]
    for name, program in programs.items():
        gflops = program.operations / seconds[name][0] / 1e9
        share = gflops / (program.product.operations / seconds[products[program.product]][0] / 1e9)
        lines.append(Line(task, name, *seconds[name], *ratios(seconds[name], reference), gflops, share))
    return lines


def by_turns(ways: Ways, repeats: int) -> dict[str, Seconds]:
    """Median seconds of each way; all are warmed up, then take turns, so that a slow minute touches all alike."""
    taken: dict[str, list[Seconds]] = {name: [] for name in ways}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, way in ways.items():
                seconds = timed(way)
                if turn:
                    taken[name].append(seconds)
    return {name: medians(times) for name, times in taken.items()}


def timed(call: Callable[[], Any]) -> Seconds:
    clock, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - cpu


def medians(times: list[Seconds]) -> Seconds:
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def ratios(ours: Seconds, theirs: Seconds) -> Seconds:
    return ours[0] / theirs[0], ours[1] / theirs[1]


def flops(call: Callable[[], Any]) -> float:
    """Operations of a call, as torch counts those of its products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def machine() -> dict[str, Any]:
    """What the times were taken on, and how busy it was."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": model or platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported()), "amx": has_amx(), "fast_bfloat16": fast_bfloat16(),
            "threads": torch.get_num_threads(), "torch": str(torch.__version__),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None}
