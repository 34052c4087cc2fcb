"""Any of an object's measurements from any others: a model of AION-1's kind applied to objects, one round a `Step`.

What comes out carries that it was generated, from what, and how (`engine.generation.results`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.checkpoints.omni import BATCH
from engine.codecs import CatalogCodec, Codec
from engine.generation import grids, sequences
from engine.generation.decoded import reaches
from engine.generation.draws import Settings, generator, whole
from engine.generation.results import MARK, Generated, Part, Scribe, sample_objects
from engine.modalities import Modality, target_key
from engine.models.tokens import is_sequence
from engine.steps import Step

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.objects import Image, SkyObject

MOST_SAMPLES = 10_000
PREVIEW_EVERY = 1 / 3  # seconds: decoding costs
SURVEYS = {"legacy": "tok_image", "hsc": "tok_image_hsc"}


# ------------------------------------------------------------------------------------------------------------ the call


def generate(bundle: OmniBundle, objects: SkyObject | Sequence[SkyObject], target: str | Sequence[str], **options: Any
             ) -> Iterator[Step]:
    """Draw a target, or a chain of them, each joining the inputs of the next; every round is a `Step`, closing it stops.

    options: as `asked` takes them. A sample depends on its seed, its number, its target and its object, id included, so that
    samples of different objects are independent; never on the batch it shares.

    The preview of the last step is a list of `Generated`, one an object; before that, at most three times a second, it is what
    is known of the first sample of an object at work: known tokens as drawn, others as expected (None where nothing is new).

    Distributions and typical ones are the model's own, whatever the settings; `Distribution.posterior` says whether draws
    follow them. Of a later target of a chain they are the mean over the samples of those before it; with few samples that mean
    is coarse.

    Raises what `asked` raises; ValueError for no objects, and, at an object's turn, if it has none of the inputs.
    """
    from engine.objects import SkyObject

    some = [objects] if isinstance(objects, SkyObject) else list(objects)
    if not some:
        raise ValueError("there are no objects to generate for")
    return run(asked(bundle, target, **options), some)


def asked(bundle: OmniBundle, target: str | Sequence[str], *, inputs: Sequence[str] | None = None, seed: int = 0,
          samples: int = 1, **settings: Any) -> Request:
    """What is to be made, checked before anything is.

    target: token keys, or plain names such as hsc_image or flux_g (`engine.modalities.target_key`); what is made goes by the
    keys. inputs: token keys; None: `bundle.measured` without the targets. settings: scheme, steps, temperature, top_k, top_p,
    guidance and cache of `generation.draws.Settings` (a catalogue is always drawn in its own order).

    Raises KeyError for a target or input that the model or its folder of codecs does not have; ValueError for a target among
    the inputs, one twice, and settings that cannot be.
    """
    chain = tuple(map(target_key, (target,) if isinstance(target, str) else target))
    if not whole(samples) or not 1 <= samples <= MOST_SAMPLES:
        raise ValueError(f"samples is {samples!r}; it must be a whole number from 1 to {MOST_SAMPLES:,}: all are kept at once")
    if not whole(seed):
        raise ValueError(f"seed is {seed!r}; it must be a whole number")
    how = Settings(**settings)
    return Request(bundle, check_chain(bundle, chain, how), check_inputs(bundle, inputs, chain),
                   None if inputs is None else tuple(inputs), how, seed, samples)


def translate(bundle: OmniBundle, objects: SkyObject | Sequence[SkyObject], to: str, **options: Any) -> Iterator[Step]:
    """The other survey's image, "hsc" or "legacy", from an object's image and fluxes (of `bundle.measured`) of the one it has.

    Pixels outside the input's footprint are NaN: `places.unobserved`. options: as `generate`. Raises KeyError for another
    survey.
    """
    if to not in SURVEYS:
        raise KeyError(f"to is {to!r}; images are translated to {' or '.join(SURVEYS)}")
    other = next(key for key in SURVEYS if key != to)
    inputs = [key for key in bundle.measured if bundle.modalities[key].survey == other]
    return generate(bundle, objects, SURVEYS[to], inputs=inputs, **options)


def sharpen(bundle: OmniBundle, objects: SkyObject | Sequence[SkyObject], **options: Any) -> Iterator[Step]:
    """A DESI spectrum from an SDSS one, or from Gaia's XP coefficients, whatever an object has. options: as `generate`."""
    inputs = [key for key in ("tok_spectrum_sdss", "tok_xp_bp", "tok_xp_rp") if key in bundle.codecs]
    return generate(bundle, objects, "tok_spectrum_desi", inputs=inputs, **options)


def check_chain(bundle: OmniBundle, chain: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """Raises as `generate` says."""
    if not chain or len(set(chain)) < len(chain):
        raise ValueError(f"target is {list(chain)}; give one at least, and each once")
    for i, key in enumerate(chain):
        m = grids.known_target(bundle.model, key)
        if key not in bundle.codecs:
            raise KeyError(f"{key!r}: {bundle.folder.name} predicts it but has no codec for it, only for "
                           f"{', '.join(bundle.codecs)}")
        if i + 1 < len(chain) and key not in bundle.model.inputs:
            raise ValueError(f"{key!r} cannot join the inputs of {chain[i + 1]!r}: this model does not read it")
        grids.check_scheme(bundle.model, m, settings)
    return chain


def check_inputs(bundle: OmniBundle, inputs: Sequence[str] | None, chain: tuple[str, ...]) -> tuple[str, ...]:
    """Raises as `generate` says."""
    if inputs is None:
        return tuple(key for key in bundle.measured if key not in chain)
    both = [key for key in inputs if key in chain]
    if both:
        raise ValueError(f"{both[0]!r} is an input and a target; take it out of one")
    return bundle.checked(inputs)


# ------------------------------------------------------------------------------------------------------------- at work


@dataclass(frozen=True)
class Request:
    """What `asked` found right. inputs: the token keys that are read; named: those that were asked for, None for all."""

    bundle: OmniBundle
    chain: tuple[str, ...]
    inputs: tuple[str, ...]
    named: tuple[str, ...] | None
    settings: Settings
    seed: int
    samples: int

    @property
    def at_once(self) -> int:
        """How many objects share a batch."""
        return max(1, BATCH // self.samples)

    def rounds(self, objects: Sequence[SkyObject], target: str, tokens: dict[str, Tensor], hidden: dict[str, Tensor]
               ) -> Iterator[grids.Round]:
        codec: Codec = self.bundle.codecs[target]
        noise = [generator(self.seed, o.id, sample, target) for o in objects for sample in range(self.samples)]
        if isinstance(codec, CatalogCodec):
            return sequences.generate(self.bundle.model, tokens, hidden, target, self.settings, noise, codec.ranges)
        return grids.generate(self.bundle.model, tokens, hidden, target, self.settings, noise,
                              reaches(codec, self.bundle.model.outputs[target].tokens))

    def posterior(self, link: int) -> bool:
        """Whether what is said of a number at this place of the chain is the model's own: see `Distribution`."""
        before = [self.bundle.model.outputs[key] for key in self.chain[:link]]
        ordered = self.settings.scheme == "roar" or all(m.tokens == 1 or is_sequence(m) for m in before)
        return self.settings.plain and (not before or ordered)

    def origin(self, target: str, sources: Sequence[str]) -> str:
        """Provenance, to which the sample is added."""
        settings = replace(self.settings, scheme="one-step") if self.bundle.model.outputs[target].tokens == 1 else self.settings
        how = str(settings) if not is_sequence(self.bundle.model.outputs[target]) else f"token by token, {settings.draws}"
        return (f"{MARK}{self.bundle.folder.name} (checksum {self.bundle.checksum[:12]}): {target} from {', '.join(sources)}, "
                f"{how}, seed {self.seed}")


class _Previews:
    """When one is due: at most so many a second over all batches, whatever one takes."""

    shown = -math.inf

    def due(self) -> bool:
        return time.monotonic() - self.shown >= PREVIEW_EVERY


def run(request: Request, objects: list[SkyObject]) -> Iterator[Step]:
    """As `generate`."""
    found: list[Generated] = []
    previews = _Previews()
    for start in range(0, len(objects), request.at_once):
        some = objects[start : start + request.at_once]
        tokens, hidden = request.bundle.tokenize(some, request.inputs)
        for o, has in zip(some, with_inputs(some, hidden), strict=True):
            if not has:
                raise ValueError(f"object {o.id} has none of the inputs that {request.bundle.folder.name} would make "
                                 f"{request.chain[0]} from: {', '.join(request.inputs) or 'no input is left'}")
        found += yield from batch(request, some, tokens, hidden, start, len(objects), previews)
    many = "" if len(found) == 1 else "s"
    yield Step(1.0, f"{', '.join(request.chain)} of {len(found)} object{many}, samples of each: {request.samples}", found)


def with_inputs(objects: Sequence[SkyObject], hidden: dict[str, Tensor]) -> list[bool]:
    """Which of some objects have a token; hidden: (B, n) by key."""
    return [any(not bool(mask[row].all()) for mask in hidden.values()) for row in range(len(objects))]


def batch(request: Request, objects: Sequence[SkyObject], tokens: dict[str, Tensor], hidden: dict[str, Tensor], before: int,
          total: int, previews: _Previews | None = None) -> Generator[Step, None, list[Generated]]:
    """Some objects, each with an input, through the whole chain. tokens, hidden: (B, n) by key, of `bundle.tokenize`; before,
    total: objects done, and in all; previews: None for none."""
    sources = [[key for key, mask in hidden.items() if not bool(mask[row].all())] for row in range(len(objects))]
    seen = [images_of(o, [request.bundle.modalities[key] for key in own]) for o, own in zip(objects, sources, strict=True)]
    made: list[dict[str, Part]] = [{} for _ in objects]
    for link, target in enumerate(request.chain):
        scribes = [Scribe(request.bundle.codecs[target], request.bundle.model.outputs[target], request.origin(target, own),
                          images, request.posterior(link))
                   for own, images in zip(sources, seen, strict=True)]
        likely: Tensor | None = None
        for step in request.rounds(objects, target, tokens, hidden):
            if step.logits is not None:
                likely = step.logits.softmax(-1).unflatten(0, (len(objects), -1)).mean(1)
            preview = None
            if previews is not None and previews.due():
                preview = scribes[0].preview(step.ids[0], step.known[0], None if likely is None else likely[0])
                previews.shown = time.monotonic()
            share = (link + step.share) / len(request.chain)
            yield Step((before + share * len(objects)) / total, f"{target} of {objects[0].id}: {step.known[0].sum()} tokens",
                       preview)
        for row, (scribe, ids) in enumerate(zip(scribes, step.ids.unflatten(0, (len(objects), -1)), strict=True)):
            made[row][target] = scribe.part(ids, None if likely is None else likely[row])
            sources[row].append(f"{target} (generated)")
        if link + 1 < len(request.chain):
            tokens, hidden = _joined(tokens, target, step.ids), _joined(hidden, target, torch.zeros_like(step.known))
    return [Generated(o.id, sample_objects(o, parts), parts) for o, parts in zip(objects, made, strict=True)]


def images_of(thing: SkyObject, inputs: Sequence[Modality]) -> list[Image]:
    """An object's images among the inputs."""
    found = [thing.image(m.survey) for m in inputs if m.kind == "image"]
    return [image for image in found if image is not None]


def _joined(tokens: dict[str, Tensor], target: str, ids: Tensor) -> dict[str, Tensor]:
    """Tokens (B, n), or (R, n), and those of a target (R, n): of all, (R, n)."""
    samples = len(ids) // len(next(iter(tokens.values())))
    return {key: value.repeat_interleave(samples, 0) for key, value in tokens.items()} | {target: ids.cpu()}
