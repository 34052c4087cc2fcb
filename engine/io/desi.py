"""DESI coadd and spectra files -> objects: arms B, R, Z on one grid, targets only, redshifts from the Redrock file beside.

Wavelengths are vacuum and barycentric (DESI Collaboration 2024, AJ 168, 58; data model: desidatamodel.readthedocs.io).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from engine.io import parts
from engine.io.columns import Field, objects, plan
from engine.io.errors import ReadError
from engine.io.fits_files import columns_of, is_table, name_of, native, open_fits
from engine.io.fits_spectra import FWHM
from engine.io.surveys import SPECTRUM_UNIT
from engine.objects import Scalar, SkyObject, Spectrum

START, STEP, PIXELS = 3600.0, 0.8, 7781
RESTRICTED = 8  # COADD_FIBERSTATUS: the fibre could not reach everywhere, its spectrum is good
BLOCK = 64  # objects a block, so that memory does not grow with the file
_KEPT = re.compile(r"targetid|target_(ra|dec)|ebv|flux_(ivar_)?(g|r|z|w1|w2)|shape_(r|e1|e2)|sersic|morphtype|parallax|"
                   r"pmra|pmdec|gaia_phot_\w+_mean_mag|(sv\d_)?desi_target")


def is_desi(hdus: fits.HDUList) -> bool:
    """Whether the file has a FIBERMAP and fluxes in arms."""
    names = {name_of(h) for h in hdus}
    return "FIBERMAP" in names and any(f"{arm}_FLUX" in names for arm in "BRZ")


def redrock_beside(path: Path) -> Path | None:
    """The Redrock file of a coadd or spectra file, in the same folder: coadd-X -> redrock-X (or zbest-X)."""
    found = re.match(r"(coadd|spectra)-(.+)$", path.name)
    options = [path.with_name(f"{kind}-{found[2]}") for kind in ("redrock", "zbest")] if found else []
    options += [o.with_name(o.name.removesuffix(".gz")) for o in options if o.suffix == ".gz"]
    return next((o for o in options if o.is_file()), None)


def objects_of(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """One object a target, its exposures and arms coadded. Raises ReadError if every fibre is sky, stuck or broken."""
    by_name = {name_of(h): h for h in hdus}
    fibers = by_name["FIBERMAP"]
    columns = {low: native(fibers.data[name]) for low, name in columns_of(fibers).items()}
    good = _targets(columns)
    if not good.any():
        raise ReadError(path, f"holds {len(good)} fibres, all of them sky, stuck or broken: no target; choose another file")
    arms = [a for a in "BRZ" if f"{a}_FLUX" in by_name and f"{a}_WAVELENGTH" in by_name]
    places = {a: _places(path, native(by_name[f"{a}_WAVELENGTH"].data)) for a in arms}
    data = {n: by_name[n].data for a in arms for n in (f"{a}_FLUX", f"{a}_IVAR", f"{a}_MASK", f"{a}_RESOLUTION")
            if n in by_name}
    beside = redrock_beside(path)
    redshifts = _redshifts(beside) if beside else {}
    ids = columns["targetid"]
    groups: dict[int, list[int]] = {}
    for row in np.flatnonzero(good):
        groups.setdefault(int(ids[row]), []).append(int(row))
    kept = {n: v for n, v in columns.items() if _KEPT.fullmatch(n)}
    first = np.array([rows[0] for rows in groups.values()])
    layout = plan([Field(n) for n in kept], {n: v[first] for n, v in kept.items()}, path, "legacy",
                  position=("target_ra", "target_dec"))
    notes = [f"{int((~good).sum())} fibres that are sky, stuck or broken left out"] if not good.all() else []
    exposures = list(groups.values())
    for start in range(0, len(first), BLOCK):
        rows = exposures[start:start + BLOCK]
        block = {n: v[first[start:start + BLOCK]] for n, v in kept.items()}

        def extras(i: int, rows: list[list[int]] = rows) -> dict[str, Any]:
            spectrum = _spectrum(path, data, places, rows[i], survey)
            scalars, more = redshifts.get(int(ids[rows[i][0]]), ({}, ()))
            source = (f"redshift from {beside.name}", *more) if beside and scalars else ("no Redrock file beside: no redshift",)
            return {"spectra": (spectrum,) if spectrum is not None else (), "scalars": scalars, "history": (*source, *notes)}

        yield from objects(layout, block, start, extras)


def _targets(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Which fibres saw a target with a working fibre."""
    good = columns["targetid"] > 0
    if "objtype" in columns:
        good &= np.char.strip(columns["objtype"].astype(str)) == "TGT"
    status = columns.get("coadd_fiberstatus", columns.get("fiberstatus"))
    return good if status is None else good & ((status & ~RESTRICTED) == 0)


def _places(path: Path, wave: NDArray[Any]) -> NDArray[np.int64]:
    """Where an arm's wavelengths lie on the common grid. Raises ReadError if they are not on it."""
    steps = (wave.astype(float) - START) / STEP
    index = np.rint(steps).astype(int)
    if np.abs(steps - index).max() > 0.02 or index.min() < 0 or index.max() >= PIXELS:
        raise ReadError(path, f"has wavelengths off DESI's grid of {STEP} A from {START:g}; use the files of a release")
    return index


def _spectrum(path: Path, data: Mapping[str, Any], places: Mapping[str, Any], rows: list[int],
              survey: str | None) -> Spectrum | None:
    """Exposures and arms weighted by their inverse variance, masked pixels without weight; None if nothing is left."""
    weight, total, width, width_weight = (np.zeros(PIXELS) for _ in range(4))
    for arm, at in places.items():
        for row in rows:
            flux = np.asarray(data[f"{arm}_FLUX"][row], float)
            ivar = np.asarray(data[f"{arm}_IVAR"][row], float)
            good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
            if f"{arm}_MASK" in data:
                good &= np.asarray(data[f"{arm}_MASK"][row]) == 0
            weight[at] += np.where(good, ivar, 0.0)
            total[at] += np.where(good, ivar * flux, 0.0)
            if f"{arm}_RESOLUTION" in data:
                variance = _variance(np.asarray(data[f"{arm}_RESOLUTION"][row], float))
                known = good & np.isfinite(variance) & (variance > 0)
                width[at] += np.where(known, ivar * variance, 0.0)
                width_weight[at] += np.where(known, ivar, 0.0)
    if not (weight > 0).any():
        return None
    wave = START + STEP * np.arange(PIXELS)
    flux = np.divide(total, weight, out=np.zeros(PIXELS), where=weight > 0)
    resolution = None
    known = width_weight > 0
    if known.any():
        sigma = np.sqrt(np.interp(wave, wave[known], width[known] / width_weight[known])) * STEP
        resolution = (wave / (FWHM * sigma)).astype(np.float32)
    what = f"{len(rows)} exposures, " if len(rows) > 1 else ""
    return Spectrum(wave, flux.astype(np.float32), weight.astype(np.float32), weight == 0, resolution, survey or "desi",
                    SPECTRUM_UNIT,
                    history=(f"{path.name} row {', '.join(str(r) for r in rows)}", "vacuum wavelengths, barycentric",
                             f"{what}arms {''.join(places)} coadded by inverse variance on 3600 + 0.8 k A"))


def _variance(diagonals: NDArray[Any]) -> NDArray[np.float64]:
    """Variance in pixels^2 of the line spread of each column of a resolution matrix kept as (ndiag, n) diagonals."""
    offsets = np.arange(len(diagonals) // 2, len(diagonals) // 2 - len(diagonals), -1.0)[:, None]
    with np.errstate(all="ignore"):
        norm = diagonals.sum(0)
        mean = (diagonals * offsets).sum(0) / norm
        return np.asarray((diagonals * (offsets - mean) ** 2).sum(0) / norm)


def _redshifts(path: Path) -> dict[int, tuple[dict[str, Scalar], tuple[str, ...]]]:
    """TARGETID -> (scalars z, zwarn, spectype, deltachi2, what to say of them) from a Redrock file."""
    with open_fits(path) as hdus:
        table = next((h for h in hdus if is_table(h) and {"targetid", "z", "zwarn"} <= set(columns_of(h))), None)
        if table is None:
            raise ReadError(path,
                            "holds no table with TARGETID, Z and ZWARN, though a coadd beside it expects its redshifts there")
        rows = {low: native(table.data[name]) for low, name in columns_of(table).items()}
    out: dict[int, tuple[dict[str, Scalar], tuple[str, ...]]] = {}
    for i, target in enumerate(rows["targetid"]):
        warning = int(rows["zwarn"][i])
        found = {"z": parts.redshift(rows["z"][i], rows["zerr"][i] if "zerr" in rows else None), "zwarn": Scalar(warning)}
        for name in ("spectype", "subtype", "deltachi2"):
            if name in rows:
                found[name] = parts.scalar(rows[name][i])
        note = (f"the redshift is not sure: ZWARN = {warning}",) if warning else ()
        out[int(target)] = ({k: v for k, v in found.items() if v is not None}, note)
    return out
