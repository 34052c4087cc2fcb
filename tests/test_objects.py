"""Objects are checked when made, read-only after, and travel between processes."""

from __future__ import annotations

import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy.wcs import WCS

from engine.objects import Catalog, Image, LightCurve, Scalar, SkyObject, Spectrum


def image(**changes: object) -> Image:
    return Image(**{"pixels": np.ones((2, 4, 5), ">f4"), "bands": ("g", "r"), "unit": "nmgy", **changes})  # type: ignore[arg-type]


def test_arrays_are_native_and_read_only() -> None:
    pixels = image().pixels
    assert pixels.dtype.isnative and pixels.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 2.0


def test_the_callers_array_stays_writeable() -> None:
    mine = np.zeros((1, 3, 3), np.float32)
    Image(mine, ("g",))
    mine[0, 0, 0] = 1.0
    assert mine[0, 0, 0] == 1.0


@pytest.mark.parametrize(("changes", "message"), [
    ({"pixels": np.ones((4, 5))}, "must be .bands, ny, nx."),
    ({"bands": ("g",)}, "2 planes of pixels but 1 band names"),
    ({"bands": ("g", "g")}, "must differ"),
    ({"ivar": np.ones((2, 4, 4))}, "ivar has shape"),
    ({"mask": np.zeros((4, 5))}, "mask has shape"),
    ({"psf": np.ones((5, 5))}, "psf must be"),
])
def test_images_that_do_not_fit_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image(**changes)


def test_pixel_scale_comes_from_the_wcs() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-0.262 / 3600, 0.262 / 3600]
    assert image(wcs=wcs, pixel_scale=1.0).pixel_scale == pytest.approx(0.262)
    assert image(pixel_scale=0.168).pixel_scale == 0.168


@pytest.mark.parametrize("wavelength", [[1.0, 1.0, 2.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0], [1.0, np.nan, 2.0]])
def test_wavelength_must_increase(wavelength: list[float]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        Spectrum(np.array(wavelength), np.ones(3))


def test_a_scalar_is_never_nan_and_an_unknown_error_is_none() -> None:
    with pytest.raises(ValueError, match="finite"):
        Scalar(float("nan"))
    with pytest.raises(ValueError, match="finite"):
        Scalar(np.array([1.0, np.inf]))
    assert Scalar(1.0, float("nan")).error is None
    assert Scalar(np.float32(2.0), unit="nmgy").unit == u.Unit("nmgy")


def test_light_curves_are_put_in_order_of_time() -> None:
    curve = LightCurve(Time([3.0, 1.0, 2.0], format="mjd"), np.array([30.0, 10.0, 20.0]), np.array([3.0, 1.0, 2.0]), "g")
    assert curve.flux.tolist() == [10.0, 20.0, 30.0]
    assert curve.error is not None and curve.error.tolist() == [1.0, 2.0, 3.0]
    assert curve.time.mjd.tolist() == [1.0, 2.0, 3.0]


def test_catalog_columns_are_equally_long() -> None:
    assert len(Catalog({"x": np.arange(3), "y": np.arange(3)}, {"x": "pix"})) == 3
    with pytest.raises(ValueError, match="equally long"):
        Catalog({"x": np.arange(3), "y": np.arange(2)})
    with pytest.raises(ValueError, match="do not exist"):
        Catalog({"x": np.arange(3)}, {"y": "pix"})


def test_an_object_is_icrs_and_survives_pickling() -> None:
    galactic = SkyCoord(l=10 * u.deg, b=20 * u.deg, frame="galactic")
    thing = SkyObject("a", galactic, (image(),), scalars={"z": Scalar(0.1, 0.01)}, history=("made",))
    back = pickle.loads(pickle.dumps(thing))
    assert back.id == "a" and back.position.frame.name == "icrs"
    assert back.position.separation(galactic).arcsec < 1e-6
    assert back.scalars["z"] == Scalar(0.1, 0.01) and back.history == ("made",)
    with pytest.raises(TypeError):
        back.scalars["z"] = Scalar(0.2)


def test_objects_without_a_name_or_with_a_nan_position_are_refused() -> None:
    with pytest.raises(ValueError, match="id"):
        SkyObject("")
    with pytest.raises(ValueError, match="finite"):
        SkyObject("a", SkyCoord(np.nan, 1.0, unit="deg"))


def test_a_notebook_shows_what_is_there_in_a_line() -> None:
    image = Image(np.zeros((2, 8, 8), np.float32), ("g", "r"), "legacy", unit="nmgy", ivar=np.ones((2, 8, 8), np.float32))
    thing = SkyObject("one", SkyCoord(10.5, -2, unit="deg"), images=(image,), scalars={"z": Scalar(0.1), "mag_r": Scalar(20.0)})
    assert repr(image) == ("Image(pixels=float32 (2, 8, 8), bands=('g', 'r'), survey='legacy', unit=nmgy, "
                           "ivar=float32 (2, 8, 8), calibrated=True)")
    assert repr(thing) == f"SkyObject(id='one', position=10.50000 -2.00000, images=({image!r},), scalars={{z, mag_r}})"
