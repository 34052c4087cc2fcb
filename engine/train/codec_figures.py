"""How good a codec is, on a sky with a new seed, beside plain baselines: what `engine.train.codecs` measures at the end.

Baselines: the noisy pixels themselves; means of blocks (as exact numbers); principal components with as many bits as tokens
have. Shape letters: B batch, C bands of one survey, N pixels a side, G pixels of a spectrum, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.codecs import Codec, CompactImageCodec, SegmentationCodec, SpectrumCodec
from engine.codecs.compact import CHANNELS, COLOUR, SURVEYS, light
from engine.codecs.image import BANDS, BANDS_OF
from engine.models.inputs import asinh
from engine.simulate.population import STAR
from engine.train.codec_data import ARM, SPECTROGRAPHS, numbers, segmaps
from engine.train.codec_recipes import CodecRecipe
from engine.train.data import RENDER_BATCH, Render, wavelengths

FITTED = 4  # objects that baselines and probes are fitted on, for each one measured
APERTURE = 4.0  # arcsec, of magnitudes
RADII = (0.75, 1.5, 3.0, 6.0)  # arcsec, of the colours that a probe is given
COMPONENT_BITS = 8
LINES = (3728.5, 4862.7, 5008.2, 6564.6, 6732.7)  # A in vacuum: [O II], H beta, [O III], H alpha, [S II]
HALF_WIDTH, SIDE = 12.0, 30.0  # A at rest: what counts as a line, and where its continuum ends
SIGNIFICANT = 5.0
Table = dict[str, dict[str, float]]
Tensors = dict[str, Tensor]


def measure(codec: Codec, recipe: CodecRecipe, render: Render) -> dict[str, Any]:
    """Figures of a finished codec: table -> row -> name -> value. Objects have the seed after the recipe's."""
    test = recipe.validation
    if isinstance(codec, CompactImageCodec):
        sky = rendered(render, recipe.seed + 1, test * (1 + FITTED), image_keys)
        figures: dict[str, Any] = {survey: image_table(codec, sky, survey, test) for survey in SURVEYS}
        return figures | {"redshift_from_legacy": redshift_table(codec, sky, test)}
    if isinstance(codec, SpectrumCodec):
        sky = rendered(render, recipe.seed + 1, test * (1 + FITTED), spectrum_keys)
        return {name: spectrum_table(codec, sky, name, test) for name in SPECTROGRAPHS}
    assert isinstance(codec, SegmentationCodec)
    sky = rendered(render, recipe.seed + 1, test, lambda s: {"field": torch.from_numpy(segmaps(s)["field"])})
    return {"maps": field_table(codec, sky["field"].float() / 255)}


def rendered(render: Render, seed: int, count: int, keep: Callable[[Tensors], Tensors]) -> Tensors:
    """Objects 0 to count - 1, of which little enough is kept."""
    parts = [keep(render(seed, torch.arange(i, min(count, i + RENDER_BATCH)), truth=True))
             for i in range(0, count, RENDER_BATCH)]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def image_keys(sky: Tensors) -> Tensors:
    """In nmgy; bad pixels are 0, in flux and inverse variance."""
    out = {"z": sky["s_z"], "galaxy": sky["class"] < STAR}
    for survey in SURVEYS:
        unit = BANDS[CHANNELS[survey][0]].unit
        bad = sky[f"{survey}_mask"]
        out[survey] = (torch.where(bad, 0.0, sky[survey]) / unit).half()
        out[f"{survey}_ivar"] = (torch.where(bad, 0.0, sky[f"{survey}_ivar"]) * unit**2).float()
        out[f"{survey}_truth"] = (sky[f"{survey}_truth"] / unit).half()
    return out


def spectrum_keys(sky: Tensors) -> Tensors:
    keys = [f"{name}{what}" for name in SPECTROGRAPHS for what in ("", "_ivar", "_mask", "_truth")]
    return {"z": torch.from_numpy(numbers(sky)["s_z"]), **{key: sky[key] for key in keys}}


# -- images ---------------------------------------------------------------------------------------------------------------


def image_table(codec: CompactImageCodec, sky: Tensors, survey: str, test: int) -> Table:
    """PSNR (dB, of the truth's brightest pixel, median), chi2 a pixel of the noisy data, scatter of r and g - r in 4"; of the
    codec also how many of its ids are in use."""
    unit = BANDS[CHANNELS[survey][0]].unit
    noisy, truth, ivar = sky[survey][:test].float(), sky[f"{survey}_truth"][:test].float(), sky[f"{survey}_ivar"][:test]
    tokens = codec.tokenize(noisy * unit, survey)
    fit = sky[survey][test:].float().clamp(-1, 1e3)
    press = (lambda x: asinh(x / 0.02), lambda y: torch.sinh(y) * 0.02)
    bits = codec.config.tokens * math.log2(codec.vocabulary)
    rows = {"codec": codec.detokenize(tokens, survey) / unit, "noisy pixels": noisy, "2 x 2 means": blocks(noisy, 2),
            "4 x 4 means": blocks(noisy, 4), "components": press[1](components(press[0](fit), press[0](noisy), bits)),
            "truth": truth}
    table = {name: image_row(pixels, noisy, truth, ivar, survey) for name, pixels in rows.items()}
    return table | {"codec": table["codec"] | use(tokens[:, 1:], codec)}  # the first is the level's


def image_row(pixels: Tensor, noisy: Tensor, truth: Tensor, ivar: Tensor, survey: str) -> dict[str, float]:
    peak = truth.flatten(2).amax(2)
    error = (pixels - truth).square().flatten(2).mean(2).clamp_min(1e-12)
    mags, true = (-2.5 * torch.log10(light(x, (APERTURE,), survey)[..., 0].clamp_min(1e-3)) for x in (pixels, truth))
    off = mags - true
    return {"psnr": float((10 * torch.log10(peak**2 / error)).median()),
            "chi2": float(((pixels - noisy).square() * ivar).sum((1, 2, 3)).div((ivar > 0).sum((1, 2, 3))).median()),
            "r_scatter": nmad(off[:, 1]), "r_bias": float(off[:, 1].median()), "g_r_scatter": nmad(off[:, 0] - off[:, 1])}


def blocks(x: Tensor, size: int) -> Tensor:
    """(B, C, N, N) with every block of size x size replaced by its mean."""
    return F.avg_pool2d(x, size).repeat_interleave(size, -1).repeat_interleave(size, -2)


def components(fit: Tensor, x: Tensor, bits: float) -> Tensor:
    """x (B, ...) by principal components of `fit`, as many as `bits` allow when each is kept in a byte."""
    torch.manual_seed(0)
    rows, mean = fit.flatten(1), fit.flatten(1).mean(0)
    count = min(int(bits) // COMPONENT_BITS, len(rows) - 1)
    _, _, basis = torch.svd_lowrank(rows - mean, count, niter=1)
    top = ((rows - mean) @ basis).abs().amax(0)
    steps = ((x.flatten(1) - mean) @ basis / top * 127).round().clamp(-127, 127)
    return ((steps * top / 127) @ basis.T + mean).view_as(x)


def redshift_table(codec: CompactImageCodec, sky: Tensors, test: int) -> Table:
    """R2 and scatter of the redshift of galaxies by the same small network on what tokens say, on pixels, on what is decoded.

    The gate: codes give at least .88 of the R2 that pixels give. Pixels count as means of 8 x 8 and colours in apertures.
    """
    unit = BANDS[CHANNELS["legacy"][0]].unit
    tokens = codec.tokenize(sky["legacy"].float() * unit, "legacy")
    brightness = torch.log10(codec.brightness_of(tokens[:, 0]))[:, None]
    inputs = {"codes": torch.cat([brightness, codec.codes_of(tokens[:, 1:]).flatten(1)], 1),
              "pixels": features(sky["legacy"].float()), "without noise": features(sky["legacy_truth"].float()),
              "decoded": features(codec.detokenize(tokens, BANDS_OF["legacy"]) / unit)}
    good = sky["galaxy"] & torch.isfinite(sky["z"])
    known = torch.arange(len(good)) >= test
    y = torch.log1p(sky["z"].clamp_min(0))
    rows: Table = {}
    for name, x in inputs.items():
        found = probed(x[good & known].float(), y[good & known], x[good & ~known].float())
        off = (found - y[good & ~known])
        rows[name] = {"r2": r2(found, y[good & ~known]), "scatter": nmad(off)}
    rows["gate"] = {"share_of_pixels": rows["codes"]["r2"] / rows["pixels"]["r2"]}
    return rows


def features(pixels: Tensor) -> Tensor:
    """(B, C, N, N) in nmgy -> (B, F): magnitude, colours in apertures, patches as a share of the light."""
    apertures = light(pixels, RADII, "legacy")
    norm = apertures[:, :, 2].mean(1).clamp_min(1e-2)
    colours = asinh(apertures / norm[:, None, None] / COLOUR)
    patches = asinh(F.avg_pool2d(pixels, 8) / norm[:, None, None, None] / 1e-3)
    return torch.cat([torch.log10(norm)[:, None], colours.flatten(1), patches.flatten(1)], 1)


def probed(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """y (B,) of new rows (B, F), by the mean of four small perceptrons fitted to (x, y)."""
    mean, spread, centre, width = x.mean(0), x.std(0) + 1e-3, y.mean(), y.std()
    x, new = ((v - mean) / spread for v in (x, new))
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Dropout(0.1), nn.Linear(x.shape[1], 128), nn.GELU(), nn.Dropout(0.2), nn.Linear(128, 1))
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.3)
        for epoch in range(40):
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 - epoch / 40)
            for some in torch.randperm(len(x)).split(64):
                loss = F.mse_loss(net(x[some])[:, 0], (y[some] - centre) / width)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            found.append(net.eval()(new)[:, 0] * width + centre)
    return torch.stack(found).mean(0)


# -- spectra --------------------------------------------------------------------------------------------------------------


def spectrum_table(codec: SpectrumCodec, sky: Tensors, name: str, test: int) -> Table:
    """R2 of the truth (median object, and all pixels together), chi2 a pixel of the noisy data, error of the flux of lines; of
    the codec also how many of its ids are in use."""
    noisy, ivar, mask, truth = (sky[f"{name}{what}"][:test] for what in ("", "_ivar", "_mask", "_truth"))
    wavelength = wavelengths(name, noisy.shape[1]).float()
    tokens = codec.tokenize(noisy, ivar, mask, wavelength)
    drawn, _ = codec.detokenize(tokens, wavelength)
    level = noisy.mean(1, keepdim=True).clamp_min(0.1)
    clean = torch.where(mask, level, noisy)
    fit, fit_mask = sky[name][test:], sky[f"{name}_mask"][test:]
    fit_level = fit.mean(1, keepdim=True).clamp_min(0.1)
    bits = codec.config.tokens * math.log2(codec.vocabulary)
    parts = components(asinh(torch.where(fit_mask, 1.0, fit / fit_level)), asinh(clean / level), bits)
    rows = {"codec": drawn, "noisy pixels": clean, "means of 64": runs(clean, 64), "means of 16": runs(clean, 16),
            "components": torch.sinh(parts) * level, "truth": truth}
    good = ~mask & (ivar > 0)
    table = {row: spectrum_row(flux, noisy, truth, ivar, good, wavelength, sky["z"][:test]) for row, flux in rows.items()}
    return table | {"codec": table["codec"] | use(tokens[:, 1:], codec)}  # the first is the level's


def runs(flux: Tensor, size: int) -> Tensor:
    """(B, n) with every run of `size` pixels replaced by its mean."""
    n = flux.shape[1]
    padded = F.pad(flux, (0, -n % size), mode="replicate")
    return padded.unflatten(1, (-1, size)).mean(2).repeat_interleave(size, 1)[:, :n]


def spectrum_row(flux: Tensor, noisy: Tensor, truth: Tensor, ivar: Tensor, good: Tensor, wavelength: Tensor,
                 z: Tensor) -> dict[str, float]:
    each = 1 - ((flux - truth).square() * good).sum(1) / ((truth - truth.mean(1, keepdim=True)).square() * good).sum(1)
    chi2 = ((flux - noisy).square() * ivar * good).sum(1) / good.sum(1)
    true, error = lines(truth, ivar, good, wavelength, z)
    ours, _ = lines(flux, ivar, good, wavelength, z)
    strong = true > SIGNIFICANT * error
    off = (ours - true)[strong] / true[strong]
    return {"r2": float(each.median()), "r2_all": r2(flux[good], truth[good]), "chi2": float(chi2.median()),
            "lines": int(strong.sum()), "line_scatter": nmad(off), "line_bias": float(off.median()) if len(off) else math.nan,
            "line_chi": nmad((ours - true)[strong] / error[strong])}


def lines(flux: Tensor, ivar: Tensor, good: Tensor, wavelength: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Flux of each line above the mean to its sides, and the error that noise makes: (B, lines), inf where it is not seen."""
    width = torch.gradient(wavelength)[0]
    strengths, errors = [], []
    for rest in LINES:
        place = wavelength / (1 + z[:, None]) - rest
        inside = (place.abs() < HALF_WIDTH) & good
        beside = (place.abs() >= HALF_WIDTH) & (place.abs() < SIDE) & good
        continuum = (flux * beside).sum(1) / beside.sum(1).clamp_min(1)
        strengths.append(((flux - continuum[:, None]) * width * inside).sum(1))
        error = (inside * width**2 / ivar.clamp_min(1e-6)).sum(1).sqrt()
        whole = (inside.sum(1) > 10) & (beside.sum(1) > 10) & torch.isfinite(z)
        errors.append(torch.where(whole, error, torch.inf))
    return torch.stack(strengths, 1), torch.stack(errors, 1)


# -- maps -----------------------------------------------------------------------------------------------------------------


def field_table(codec: SegmentationCodec, field: Tensor) -> Table:
    """Mean squared error, and overlap (intersection over union) of what is an arm or a bar at least by half; of the codec also
    how many of its ids are in use."""
    field = field[field.flatten(1).any(1)]
    tokens = codec.tokenize(field)
    rows = {"codec": codec.detokenize(tokens), "8 x 8 means": blocks(field[:, None], 8)[:, 0],
            "4 x 4 means": blocks(field[:, None], 4)[:, 0]}
    there = field >= ARM / 2
    table = {name: {"squares": float(F.mse_loss(x, field)),
                    "overlap": float(((x >= ARM / 2) & there).sum() / ((x >= ARM / 2) | there).sum().clamp_min(1))}
             for name, x in rows.items()}
    return table | {"codec": table["codec"] | use(tokens, codec)}


# -- statistics -----------------------------------------------------------------------------------------------------------


def use(ids: Tensor, codec: Codec) -> dict[str, float]:
    """Of a codec's ids how many are in use, and how many it has."""
    return {"perplexity": perplexity(ids), "vocabulary": codec.vocabulary}


def perplexity(ids: Tensor) -> float:
    """exp of the entropy of the ids: how many of equal frequency would be as varied."""
    share = torch.bincount(ids.flatten().long()).double() / ids.numel()
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def nmad(x: Tensor) -> float:
    """A standard deviation that outliers do not touch: 1.4826 times the median distance from the median. NaN for none."""
    return 1.4826 * float((x - x.median()).abs().median()) if len(x) else math.nan


def r2(found: Tensor, true: Tensor) -> float:
    return 1 - float((found - true).square().sum() / (true - true.mean()).square().sum())
