"""Sizes and schedules of masked training, and whether a run fits the memory; another recipe is `replace(...)` of one."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Any

import torch

from engine.models.omni import Omni
from engine.models.omni_config import OmniConfig
from engine.models.processor import fast_bfloat16
from engine.train.masking import Budgets, Layout
from engine.train.omni_step import LOSSES

SPLITS = ("rows", "positions")
PARTS = ("all", "decoder")


@dataclass(frozen=True)
class OmniRecipe:
    """One masked training run.

    soften: see `MaskedOmni`. batch: objects a step, of all processes together, in `pieces` one after another. rate: rises over
    the share `warmup` of the steps, stays for the share `flat`, and falls as a cosine. average: what the averaged weights,
    which are the result, keep of themselves in a step. validation: the share of objects held out, by "rows" or whole pieces of
    sky ("positions"); validated: how many of them a report looks at. withheld: pairs of surveys never shown together. stored:
    of the result. threads: of torch on a CPU. compiled: the blocks, on a GPU. part: what is trained, "all" or the
    blocks of the "decoder" alone, which leaves all vectors as they are. placed: see `engine.train.placed_heads`, in how many
    last blocks. mlp_ratio, share_tables: see `OmniConfig`.
    """

    name: str
    dim: int
    encoder: int
    decoder: int
    heads: int
    budgets: Budgets = field(default_factory=Budgets)
    mlp_ratio: float = 4.0
    loss: str = "modality"
    soften: float = 1.0
    seed: int = 1
    batch: int = 64
    pieces: int = 1
    steps: int = 20_000
    rate: float = 1e-3
    warmup: float = 0.02
    flat: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    decay: float = 0.05
    clip: float = 1.0
    average: float = 0.999
    bfloat16: bool = True
    recompute: bool = False
    compiled: bool = False
    validation: float = 0.02
    split: str = "rows"
    validated: int = 512
    withheld: tuple[tuple[str, str], ...] = (("hsc", "desi"),)
    stored: str = "float32"
    threads: int = 2
    report_every: int = 50
    checkpoint_every: int = 500
    share_tables: bool = False
    part: str = "all"
    placed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (("loss", self.loss, LOSSES), ("split", self.split, SPLITS),
                                     ("part", self.part, PARTS), ("stored", self.stored, ("float32", "bfloat16"))):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if self.batch % self.pieces:
            raise ValueError(f"a batch of {self.batch} cannot be cut into {self.pieces} equal pieces")
        if self.warmup < 0 or self.flat < 0 or self.warmup + self.flat > 1:
            raise ValueError(f"warmup {self.warmup} and flat {self.flat} are shares of the steps; together at most 1")

    def config(self, domains: Iterable[str], sizes: Mapping[str, tuple[int, int]]) -> OmniConfig:
        """The transformer of this recipe, as AION-1's are but for the size."""
        keys = tuple(domains)
        return OmniConfig(keys, keys, norm_bias=False, act_layer="SiLU", dim=self.dim, encoder_depth=self.encoder,
                          decoder_depth=self.decoder, num_heads=self.heads, mlp_ratio=self.mlp_ratio, qkv_bias=False,
                          proj_bias=False, mlp_bias=False,
                          gated_mlp=True, qk_norm=True, use_act_checkpoint=self.recompute,
                          sizes={key: size for key, size in sizes.items() if key in keys}, share_tables=self.share_tables,
                          soften=self.soften)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def digest(self, config: OmniConfig) -> str:
        """Sixteen hex digits that change with anything that changes the numbers of the run."""
        own = {k: v for k, v in self.to_dict().items() if k not in ("report_every", "checkpoint_every", "validated", "stored")}
        return hashlib.sha256(json.dumps([own, config.as_dict()], sort_keys=True).encode()).hexdigest()[:16]


DEMO = Budgets((4, 8, 16, 40, 64, 96, 144, 200, 288), 48)  # from some numbers to an image and a spectrum, whole
AION = Budgets((256,), 128, scheme="aion")
# AION-1's own three: arXiv:2510.17960, sec. 5 and app. B
_published = {"budgets": AION, "batch": 8192, "steps": 205_000, "rate": 2e-4, "warmup": 0.1, "betas": (0.9, 0.95),
              "average": 0.9999, "soften": 0.0, "validated": 8192, "checkpoint_every": 1000, "compiled": True}
RECIPES: dict[str, OmniRecipe] = {r.name: r for r in (
    OmniRecipe("tiny", 32, 1, 1, 2, Budgets((8, 16), 8), batch=16, steps=40, rate=3e-3, warmup=0.1, average=0.9, threads=1,
               bfloat16=False, validation=0.1, validated=64, report_every=10, checkpoint_every=10, share_tables=True),
    OmniRecipe("small", 224, 6, 5, 7, DEMO, mlp_ratio=912 / 224, loss="group", rate=1.2e-3, flat=0.68, steps=40_000,
               stored="bfloat16", share_tables=True),  # 608 wide inside: processors multiply by 32 at a time
    OmniRecipe("base", 768, 12, 12, 12, **_published, pieces=32),  # type: ignore[arg-type]
    OmniRecipe("large", 1024, 24, 24, 16, **_published, pieces=32, recompute=True),  # type: ignore[arg-type]
    OmniRecipe("xlarge", 2048, 24, 24, 32, **_published, pieces=64, recompute=True),  # type: ignore[arg-type]
)}


def chosen(recipe: str | OmniRecipe, **changes: Any) -> OmniRecipe:
    """A recipe by its name, with some values changed; a batch of another size is cut into as many of its pieces as it can be.
    Raises KeyError for an unknown name."""
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise KeyError(f"{recipe!r} is not a recipe we know; choose one of {', '.join(RECIPES)}")
    own = RECIPES[recipe] if isinstance(recipe, str) else recipe
    if "batch" in changes:
        changes = {"pieces": gcd(changes["batch"], own.pieces), **changes}
    return replace(own, **changes)


# ------------------------------------------------------------------------------------------------------------- memory


PROGRAM = 600 * 2**20  # bytes of the interpreter, the libraries, the tokens of a batch, and holes between small tensors
MMAP_THRESHOLD = -3  # glibc's number of what `give_back` sets


@dataclass(frozen=True)
class Memory:
    """Bytes that each process of a run needs: what lasts, what one piece of a batch keeps for its gradient, and on a CPU the
    program itself, which a GPU has elsewhere."""

    lasting: int
    passing: int
    program: int = 0

    @property
    def total(self) -> int:
        return self.lasting + self.passing + self.program


def estimate(recipe: OmniRecipe, config: OmniConfig, processes: int = 1, device: str = "cpu") -> Memory:
    """What a run needs, with as many tokens as its budgets allow. device: "cpu" or "cuda"."""
    parameters = sum(p.numel() for p in Omni(config, device="meta").parameters())
    half = recipe.bfloat16 and fast_bfloat16(device)
    gathered = 4 * parameters if processes > 1 else 0  # the whole weights during a step
    cast = 2 * parameters if half else 0
    lasting = 4 * 5 * parameters // processes  # weights, gradients, two moments, averages
    kept = recipe.batch // recipe.pieces // processes * _kept(recipe, config, half, device)
    return Memory(lasting, kept + gathered + cast, PROGRAM if device == "cpu" else 0)


def _kept(recipe: OmniRecipe, config: OmniConfig, half: bool, device: str) -> int:
    """Bytes an object, for its gradient; half: in bfloat16, but for what autocast leaves in float32."""
    most, asked, d, h = max(recipe.budgets.inputs), recipe.budgets.targets, config.dim, config.hidden
    size = 2 if half else 4
    # Numbers kept for the gradient, a token and block: of width D, inside the perceptron, and attention weights. Those that
    # autocast leaves in float32 (what the norms see) count in full.
    norm, attention, gate = 4 * 2 * d, 8 * d * size, (2 * d + 4 * h) * size
    weights = size if half and device == "cpu" else 0  # fused kernels keep none
    encoder = most * (norm + attention + gate + weights * config.num_heads * most)
    decoder = asked * (norm + attention + gate + weights * config.num_heads * asked)
    decoder += asked * (4 * d + 4 * d * size + weights * config.num_heads * most) + most * (4 * d + 3 * d * size)
    logits = asked * max(config.modality(key).vocabulary for key in config.domains_out) * (8 + size)
    if recipe.recompute:
        blocks = config.encoder_depth * most * 4 * d + config.decoder_depth * asked * 4 * d + max(encoder, decoder)
    else:
        blocks = config.encoder_depth * encoder + config.decoder_depth * decoder
    return blocks + logits + 8 * Layout(config).places


def available(device: torch.device) -> int:
    """Bytes that are free on a GPU, or for this process on a CPU (a container's limit counts)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def held() -> int:
    """Bytes of `PROGRAM` that this process has already, where the system tells: what is free is free beside them.

    At most half of it. Whoever has more did other things before, and what steps take is still to come.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return min(int(resident.split()[1]) * 1024, PROGRAM // 2)


def give_back() -> None:
    """Let Linux have a CPU's tensors above 1 MiB back as soon as they are let go; clearing fresh ones takes some time.

    Otherwise its C library keeps them for the next ones. A block that is computed again for the gradient leaves room, of which
    its gradients take some, and the next block fits into none of what remains: a deep model took twice what it needs.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_THRESHOLD, 2**20)


def check_memory(recipe: OmniRecipe, config: OmniConfig, free: int, processes: int = 1, device: str = "cpu",
                 held: int = 0) -> None:
    """Raises ValueError, with the estimate and what would help, for a run that needs more than is free in each process.

    held: bytes that the program has beside the free ones.
    """
    need = estimate(recipe, config, processes, device)
    held = min(held, need.program)
    if need.total - held <= free:
        return
    program = f", {(need.program - held) / 2**30:.1f} for the program itself" if need.program else ""
    start = (f"the recipe {recipe.name} needs about {(need.total - held) / 2**30:.1f} GiB ({need.lasting / 2**30:.1f} for "
             f"weights, gradients, moments and averages{program}), but {free / 2**30:.1f} GiB are free")
    free += held  # so much may the whole of a recipe take
    for pieces in (p for p in range(recipe.pieces + 1, recipe.batch + 1) if recipe.batch % (p * processes) == 0):
        if estimate(replace(recipe, pieces=pieces), config, processes, device).total <= free:
            raise ValueError(f"{start}; cut each batch into {pieces} pieces (the result is the same), or take a smaller one")
    finest = replace(recipe, pieces=recipe.batch // processes, recompute=True)
    if estimate(finest, replace(config, use_act_checkpoint=True), processes, device).total <= free:
        raise ValueError(f"{start}; cut each batch into {finest.pieces} pieces and recompute blocks for the gradient, or "
                         "take a smaller one")
    fitting = next((p for p in (2, 4, 8, 16, 32, 64, 128, 256, 512) if p > processes and recipe.batch % p == 0 and estimate(
        replace(finest, pieces=recipe.batch // p), config, p, device).total <= free), None)
    how = (f"share it among {fitting} such processes with torchrun, each with as much memory, in {recipe.batch // fitting} "
           "pieces and with blocks recomputed, or take") if fitting else "take"
    others = [chosen(r, batch=min(r.batch, recipe.batch)) for r in RECIPES.values() if r.dim < recipe.dim]
    smaller = [name for r in others
               if (name := _as_it_fits(r, r.config(config.domains, config.sizes), free, processes, device))]
    raise ValueError(f"{start}; {how} a smaller recipe ({', '.join(smaller) or 'none is'})")


def _as_it_fits(recipe: OmniRecipe, config: OmniConfig, free: int, processes: int, device: str) -> str:
    """The name of a recipe that fits, with the pieces it must be cut into; empty if it does not."""
    for pieces in (recipe.pieces, recipe.batch // processes):
        if estimate(replace(recipe, pieces=pieces), config, processes, device).total <= free:
            return recipe.name if pieces == recipe.pieces else f"{recipe.name} in {pieces} pieces"
    return ""
