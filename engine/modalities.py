"""Every modality the models know, one row each: token key, kind, survey, codec, tokens, vocabulary, unit.

The first forty rows are AION-1's (Parker et al. 2025, arXiv:2510.17960), with its token keys, codec folders, token counts
and vocabularies; a model's own config may override the last two. The rest are ours. `scalar` is the name of the value in
`SkyObject.scalars`, where the modality is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "spectrum", "catalog", "field", "scalar", "coefficients", "lightcurve"]
Codec = Literal["image", "spectrum", "catalog", "field", "log", "cdf", "grid", "multi", "lightcurve"]


@dataclass(frozen=True)
class Modality:
    """One kind of measurement. tokens: per object (the most, for a catalogue); unit: as astropy writes it, or None ("ct":
    `engine.io.surveys` knows what a count of that survey is worth)."""

    key: str
    name: str
    kind: Kind
    survey: str
    codec: Codec
    folder: str
    tokens: int
    vocabulary: int
    unit: str | None = None
    scalar: str | None = None


SPECTRUM_UNIT = "1e-17 erg / (s cm2 Angstrom)"


def _scalar(key: str, name: str, survey: str, codec: Codec, folder: str, scalar: str, unit: str | None = None,
            vocabulary: int = 1024) -> Modality:
    return Modality(key, name, "scalar", survey, codec, folder, 1, vocabulary, unit, scalar)


AION: tuple[Modality, ...] = (
    Modality("tok_image", "Legacy Surveys image", "image", "legacy", "image", "image", 576, 4375, "nmgy"),
    Modality("tok_image_hsc", "HSC image", "image", "hsc", "image", "image", 576, 4375, "ct"),
    Modality("tok_spectrum_desi", "DESI spectrum", "spectrum", "desi", "spectrum", "spectrum", 273, 1024, SPECTRUM_UNIT),
    Modality("tok_spectrum_sdss", "SDSS spectrum", "spectrum", "sdss", "spectrum", "spectrum", 273, 1024, SPECTRUM_UNIT),
    Modality("catalog", "Legacy Surveys catalogue", "catalog", "legacy", "catalog", "catalog", 50, 3468),
    Modality("tok_segmap", "Legacy Surveys segmentation map", "field", "legacy", "field", "segmentation_map", 144, 1000),
    *(_scalar(f"tok_flux_{b}", f"flux {b}", "legacy", "log", f"FLUX_{b.upper()}", f"flux_{b}", "nmgy")
      for b in ("g", "r", "i", "z", "w1", "w2", "w3", "w4")),
    _scalar("tok_shape_r", "half-light radius", "legacy", "log", "SHAPE_R", "shape_r", "arcsec"),
    _scalar("tok_shape_e1", "ellipticity e1", "legacy", "cdf", "SHAPE_E1", "shape_e1"),
    _scalar("tok_shape_e2", "ellipticity e2", "legacy", "cdf", "SHAPE_E2", "shape_e2"),
    _scalar("tok_ebv", "E(B-V)", "legacy", "cdf", "EBV", "ebv", "mag"),
    _scalar("tok_z", "redshift", "any", "grid", "Z", "z", vocabulary=1025),
    *(_scalar(f"tok_a_{b}", f"extinction {b}", "hsc", "cdf", f"a_{b}", f"a_{b}", "mag") for b in "grizy"),
    *(_scalar(f"tok_mag_{b}", f"cmodel magnitude {b}", "hsc", "cdf", f"{b}_cmodel_mag", f"mag_{b}", "mag(AB)")
      for b in "grizy"),
    *(_scalar(f"tok_shape{ij}", f"moment {ij}", "hsc", "cdf", f"i_sdssshape_shape{ij}", f"shape{ij}", "arcsec2")
      for ij in ("11", "22", "12")),
    _scalar("tok_flux_g_gaia", "G flux", "gaia", "log", "phot_g_mean_flux", "phot_g_mean_flux", "electron / s"),
    _scalar("tok_flux_bp_gaia", "BP flux", "gaia", "log", "phot_bp_mean_flux", "phot_bp_mean_flux", "electron / s"),
    _scalar("tok_flux_rp_gaia", "RP flux", "gaia", "log", "phot_rp_mean_flux", "phot_rp_mean_flux", "electron / s"),
    _scalar("tok_parallax", "parallax", "gaia", "log", "parallax", "parallax", "mas"),
    _scalar("tok_ra", "right ascension", "any", "cdf", "ra", "ra", "deg"),
    _scalar("tok_dec", "declination", "any", "cdf", "dec", "dec", "deg"),
    Modality("tok_xp_bp", "Gaia BP coefficients", "coefficients", "gaia", "multi", "bp_coefficients", 55, 1024,
             "electron / s", "xp_bp"),
    Modality("tok_xp_rp", "Gaia RP coefficients", "coefficients", "gaia", "multi", "rp_coefficients", 55, 1024,
             "electron / s", "xp_rp"),
)

OURS: tuple[Modality, ...] = (
    Modality("tok_lightcurve", "light curve", "lightcurve", "any", "lightcurve", "lightcurve", 64, 1024),
)

FLUXES = tuple(f"tok_flux_{band}" for band in "griz")  # of Legacy Surveys, measured for every object: "the magnitudes"
MODALITIES: dict[str, Modality] = {m.key: m for m in (*AION, *OURS)}
# What people call targets.
NAMES = {"legacy_image": "tok_image", "hsc_image": "tok_image_hsc", "desi_spectrum": "tok_spectrum_desi",
         "sdss_spectrum": "tok_spectrum_sdss", "redshift": "tok_z", "catalogue": "catalog", "segmentation": "tok_segmap"}


def target_key(name: str) -> str:
    """The token key of a target by its plain name or its key; the name itself where there is none."""
    return next((key for key in (name, NAMES.get(name, ""), f"tok_{name}") if key in MODALITIES), name)


def plain_name(key: str) -> str:
    """hsc_image of tok_image_hsc, flux_g of tok_flux_g."""
    return {key: name for name, key in NAMES.items()}.get(key, key.removeprefix("tok_"))
