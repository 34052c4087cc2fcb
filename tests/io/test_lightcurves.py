"""Light curves: SNANA text and the tables of ZTF, ATLAS, ASAS-SN, OGLE, PLAsTiCC, Kepler; times, units, upper limits."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table

from engine.io.errors import ReadError
from engine.io.lightcurves import from_arrays, mjd_of, objects_from_table, read_file
from engine.io.tables import objects_from_table as any_table


def objects(tmp_path: Path, text: str, name: str = "curve.csv") -> list:
    (tmp_path / name).write_text(text)
    return list(read_file(tmp_path / name))


def test_real_ztf_and_stripe82(shared_data: Path) -> None:
    folder = shared_data / "lightcurves"
    files = sorted((folder / "SNIa" / "light-curves").glob("*.csv"))
    assert len(files) == 240
    rows = 0
    for file in files:
        (found,) = read_file(file)
        rows += sum(len(c.flux) for c in found.lightcurves)
        assert found.id == file.stem and {c.band for c in found.lightcurves} <= {"g", "r", "i"}
        assert all(c.unit == u.mag(u.AB) and np.all(np.diff(c.time.mjd) >= 0) for c in found.lightcurves)
        assert all(58000 < c.time.mjd.min() < c.time.mjd.max() + 1 < 61000 for c in found.lightcurves)
    assert rows == sum(len(f.read_text().splitlines()) - 1 for f in files)
    (found,) = read_file(folder / "RRLyrae" / "light-curves" / "2297800.csv")
    assert {c.band for c in found.lightcurves} == set("ugriz") and all(c.unit == u.mag for c in found.lightcurves)
    periods = list(read_file(folder / "RRLyrae" / "periods.csv"))
    assert len(periods) == 483 and {o.id: o for o in periods}["4099"].scalars["per"].value == 0.641754351271


def test_real_snana(shared_data: Path) -> None:
    files = sorted((shared_data / "sn_pantheonplus").glob("*/*"))
    empty = [f for f in files if "NOBS: 0\n" in f.read_text()]
    assert len(files) == 100 and len(empty) == 2
    for file in empty:
        with pytest.raises(ReadError, match=f"{file.name}.*NOBS: 0"):
            list(read_file(file))
    found = [o for f in files if f not in empty for o in read_file(f)]
    assert len(found) == 98 and len({o.id for o in found}) == 98
    assert all(o.position is not None and 0 < o.scalars["z"].value < 1.2 for o in found)
    first = next(o for o in found if o.id == "1248677")
    assert first.scalars["z"].value == 0.35067 and first.scalars["ebv"].unit == u.mag and first.scalars["fake"].value is False
    g = next(c for c in first.lightcurves if c.band == "g")
    assert g.flux[0] == 158.481 and g.error[0] == 2.368
    assert (1 * g.unit).to_value(u.nmgy) == pytest.approx(10 ** (0.4 * (22.5 - 27.5)))
    assert any((c.flux < 0).any() for o in found for c in o.lightcurves)  # negative flux stays a flux


SNANA = ("SURVEY: X\nSNID: 12\nRA: 10.5 deg\nDECL: -3.5\nREDSHIFT_FINAL: {z}\nHOSTGAL_PHOTOZ: 0.4 +- 0.1\nNOBS: {n}\nNVAR: 4\n"
         "VARLIST: MJD BAND FLUXCAL FLUXCALERR\nOBS: 57000.0 g 10.0 1.0\nOBS: 57001.0 r nan 1.0\nOBS: 57002.0 r -5.0 1.0\n")


def test_snana_sentinels_and_cuts(tmp_path: Path) -> None:
    (found,) = objects(tmp_path, SNANA.format(z="-9.0 +- -9.0", n=3), "a.dat")
    assert "z" not in found.scalars and found.scalars["host_z_phot"].value == 0.4
    assert [(c.band, c.flux.tolist()) for c in found.lightcurves] == [("g", [10.0]), ("r", [-5.0])]
    (found,) = objects(tmp_path, SNANA.format(z="0.5 +- 0.01 # note", n=3), "a.dat")
    assert (found.scalars["z"].value, found.scalars["z"].error) == (0.5, 0.01)
    for text in (
        SNANA.format(z=0.5, n=9),
        SNANA.format(z=0.5, n=3)[:-8],
        "SNID: 5\nNOBS: 0\n",
        "SNID: 5\nVARLIST: MJD FLT\nOBS: 1 g\n",
    ):
        with pytest.raises(ReadError, match=r"a\.dat"):
            objects(tmp_path, text, "a.dat")


def test_atlas_flags_and_units(tmp_path: Path) -> None:
    (found,) = objects(
        tmp_path,
        "###MJD m dm uJy duJy F err chi/N RA Dec x y\n59000.1 18.2 0.1 190.5 9.0 o 0 1.0 10.5 -3.5 1 1\n"
        "59001.1 -18.2 0.1 -19.5 9.0 o 0 1.0 10.5001 -3.5 1 1\n59002.1 18.2 0.1 9999 9.0 c 1 1.0 10.5 -3.5 1 1\n",
        "atlas.txt",
    )
    (curve,) = found.lightcurves
    assert curve.band == "o" and curve.unit == u.uJy and curve.flux.tolist() == [190.5, -19.5] and curve.error[0] == 9
    assert found.position is not None and found.position.ra.deg == pytest.approx(10.5)


def test_ztf_forced_photometry_uses_each_zero_point(tmp_path: Path) -> None:
    (found,) = objects(
        tmp_path,
        "index,filter,zpdiff,forcediffimflux,forcediffimfluxunc,jd\n0,ZTF_g,26.0,100.0,10.0,2459000.5\n"
        "1,ZTF_g,23.5,100.0,10.0,2459001.5\n2,ZTF_r,26.0,null,null,2459002.5\n",
        "forced.csv",
    )
    (curve,) = found.lightcurves
    assert curve.unit == u.uJy and curve.band == "g" and curve.time.mjd.tolist() == [59000, 59001]
    np.testing.assert_allclose(curve.flux, 100 * 10 ** (0.4 * (23.9 - np.array([26.0, 23.5]))))


def test_asas_sn_upper_limits(tmp_path: Path) -> None:
    (found,) = objects(tmp_path, "HJD,UT Date,Camera,FWHM,Limit,mag,mag_err,flux(mJy),flux_err,Filter\n"
                                 "2458000.5,2017-09-04,ba,1.5,17.0,>16.5,99.99,0.8,0.5,V\n2458001.5,2017-09-05,ba,1.5,17.0,15.2,0.02,3.2,0.1,V\n")
    (curve,) = found.lightcurves
    assert curve.unit == u.mJy and curve.flux.tolist() == [0.8, 3.2] and curve.band == "V" and curve.time.mjd[0] == 58000
    (found,) = objects(tmp_path, "mjd,mag,magerr,filter\n58000,>16.5,99.99,V\n58001,15.2,0.1,V\n")
    assert found.lightcurves[0].flux.tolist() == [15.2] and any("1 measurements" in line for line in found.history)


def test_ogle_without_a_header(tmp_path: Path) -> None:
    (found,) = objects(tmp_path, "2455260.85 16.120 0.004\n2455261.85 16.220 0.005\n", "OGLE-BLG-RRLYR-00001.dat")
    assert found.lightcurves[0].time.mjd[0] == pytest.approx(55260.35) and found.id == "OGLE-BLG-RRLYR-00001"
    assert found.lightcurves[0].error.tolist() == [0.004, 0.005]


def test_plasticc_and_irsa_group_by_object(tmp_path: Path) -> None:
    found = objects(
        tmp_path,
        "object_id,mjd,passband,flux,flux_err,detected_bool\n615,59750.4,2,-544.8,3.6,1\n615,59750.4,1,-816.4,5.5,1\n"
        "713,59760.4,5,1.0,0.5,0\n",
    )
    assert [(o.id, [c.band for c in o.lightcurves]) for o in found] == [("615", ["r", "g"]), ("713", ["Y"])]
    found = objects(
        tmp_path,
        "oid,hjd,mjd,mag,magerr,catflags,filtercode,ra,dec\n5,2458200.6,58200.1,17.1,0.02,0,zg,210.1,5.2\n"
        "5,2458201.6,58201.1,1.1,0.02,32768,zg,210.1,5.2\n6,2458201.6,58201.1,16.6,0.02,0,zr,210.1,5.2\n",
        "irsa.csv",
    )
    assert [(o.id, o.lightcurves[0].band, len(o.lightcurves[0].flux)) for o in found] == [("5", "g", 1), ("6", "r", 1)]
    assert found[0].lightcurves[0].time.mjd[0] == 58200.1 and found[0].position is not None


def test_kepler_and_tess_tables(tmp_path: Path) -> None:
    table = Table({"TIME": [120.5, 121.0, np.nan, 122.0] * u.d, "SAP_FLUX": [1.0, 2, 3, 4], "PDCSAP_FLUX": [10.0, 20, 30, 40],
                   "PDCSAP_FLUX_ERR": [0.1] * 4, "SAP_QUALITY": [0, 0, 0, 128]})
    table["PDCSAP_FLUX"].unit = "electron / s"
    table.meta.update(BJDREFI=2454833, BJDREFF=0.0, TELESCOP="Kepler")
    (found,) = any_table(table, tmp_path / "kplr011446443.fits", None)
    (curve,) = found.lightcurves
    assert curve.flux.tolist() == [10, 20] and curve.time.scale == "tdb" and curve.band == "Kepler"
    assert curve.time.mjd[0] == pytest.approx(2454833 + 120.5 - 2400000.5) and curve.unit == u.electron / u.s


def test_times() -> None:
    assert mjd_of(np.array([58000.0]), "mjd")[:2] == (58000.0, "utc")
    assert mjd_of(np.array([2458000.5]), "BJD_TDB")[:2] == (58000.0, "tdb")
    assert mjd_of(np.array([8000.5]), "HJD")[0] == 58000.0
    assert mjd_of(np.array([1000.0]), "TIME BJD - 2457000, days")[:2] == (57999.5, "tdb")


def test_catalogues_are_not_light_curves(tmp_path: Path) -> None:
    found = objects(tmp_path, "id,ra,dec,mjd,mag\na,1,2,58000,17\nb,3,4,58001,18\n")
    assert [o.id for o in found] == ["a", "b"] and not found[0].lightcurves and found[0].scalars["mag"].value == 17


def test_empty_and_unusable(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"curve\.csv.*no row"):
        objects(tmp_path, "time,mag,magerr,band\n")
    with pytest.raises(ReadError, match=r"curve\.csv.*no measurement"):
        objects(tmp_path, "time,mag,magerr,band\n58000,nan,nan,g\n58001,>17,nan,g\n")
    with pytest.raises(ReadError, match="not a table of measurements"):
        list(objects_from_table(Table({"a": [1], "b": [2]}), tmp_path / "x.fits", None))
    with pytest.raises(ReadError, match="2 times but 3 fluxes"):
        from_arrays([1.0, 2.0], [1.0, 2.0, 3.0], None, None, tmp_path / "x.parquet")


def test_corrupted_at_random_only_read_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sources = [
        SNANA.format(z=0.5, n=3).encode(),
        b"time,mag,magerr,band\n" + b"".join(b"%f,17.5,0.1,g\n" % (58000 + i) for i in range(30)),
    ]
    outcomes = set()
    for i in range(120):
        raw = bytearray(sources[i % 2])
        raw = raw[:rng.integers(0, len(raw))] if i % 3 == 0 else raw
        for at in rng.integers(0, max(1, len(raw)), min(6, len(raw))):
            raw[at] = rng.integers(256)
        (tmp_path / "damaged.txt").write_bytes(raw)
        try:
            outcomes.add(len(list(read_file(tmp_path / "damaged.txt"))) > 0)
        except ReadError as problem:
            assert "damaged.txt" in str(problem)
            outcomes.add("refused")
    assert {True, "refused"} <= outcomes
