"""Tables in text: what each survey's columns become, and which columns are not what their name says."""

from __future__ import annotations

import gzip
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, Table

from engine.io.errors import ReadError
from engine.io.tables import objects_from_table, read_file
from engine.io.tablespectra import to_vacuum


def objects(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> list:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_file(path))


def z_of(found: list) -> list[float | None]:
    return [o.scalars["z"].value if "z" in o.scalars else None for o in found]


def test_gaia_xp_is_the_same_in_all_four_formats(shared_data: Path) -> None:
    folder = shared_data / "gaia"
    sets = [list(read_file(folder / f"XP_CONTINUOUS_RAW.{e}")) for e in ("csv", "ecsv", "xml")]
    fits = folder / "XP_CONTINUOUS_RAW.fits"
    sets.append(list(objects_from_table(Table.read(fits), fits, None)))
    for found in sets:
        assert [o.id for o in found] == ["5853498713190525696", "5762406957886626816"]
        for o, reference in zip(found, sets[1], strict=True):
            assert set(o.scalars) == set(reference.scalars)
            for name in ("xp_bp", "xp_rp"):
                assert o.scalars[name].value.shape == (55,) and o.scalars[name].unit == u.electron / u.s
                np.testing.assert_allclose(o.scalars[name].value, reference.scalars[name].value, rtol=1e-14)
                np.testing.assert_allclose(o.scalars[name].error, reference.scalars[name].error, rtol=1e-6)
            for name in ("bp_standard_deviation", "rp_chi_squared"):
                assert o.scalars[name].value == pytest.approx(reference.scalars[name].value, rel=1e-6)
    assert sets[0][0].scalars["xp_bp"].value[0] == 56947.03696840172


def test_missing_bp_stays_absent(tmp_path: Path) -> None:
    found = objects(tmp_path, 'source_id,bp_coefficients,rp_coefficients\n5853498713190525696,"(1.0, 2.0)","(3.0, 4.0)"\n'
                              '5762406957886626816,null,"[5.0, 6.0]"\n5762406957886626817,"(1.0, NaN)","[5.0, 6.0]"\n')
    assert "xp_bp" in found[0].scalars
    assert ["xp_bp" in o.scalars for o in found] == [True, False, False] and found[1].scalars["xp_rp"].value.tolist() == [5, 6]


def test_spss_spectra(shared_data: Path) -> None:
    found = list(read_file(shared_data / "gaia" / "SPSS_full.csv"))
    assert len(found) == 5
    spectrum = found[0].spectra[0]
    assert spectrum.wavelength[0] == pytest.approx(3000) and spectrum.survey == "gaia" and spectrum.calibrated
    assert spectrum.unit is not None and spectrum.unit.is_equivalent(u.W / u.m**2 / u.nm)


def test_lens_catalogue(shared_data: Path) -> None:
    found = list(read_file(shared_data / "lenscat" / "catalog.csv"))
    assert len(found) == 32838 and len({o.id for o in found}) == 32838
    redshifts = [o.scalars["z"].value for o in found if "z" in o.scalars]
    assert len(redshifts) == 13941 and all(isinstance(z, float) and 0 <= z < 10 for z in redshifts)
    assert found[0].scalars["grading"].value == "confident" and found[0].position.ra.deg == pytest.approx(2.83435)


def test_other_real_tables(shared_data: Path) -> None:
    hst = list(read_file(shared_data / "votables" / "cone_search.vot"))
    assert len(hst) == 317 and all(o.position is not None and "z" not in o.scalars for o in hst)
    gaia = [
        o
        for name in ("1710099405832VAL-result.vot", "1712337806100O-result.ecsv")
        for o in read_file(shared_data / "votables" / name)
    ]
    assert len(gaia) == 7 and all("z" not in o.scalars and o.position is not None for o in gaia)
    assert gaia[0].scalars["parallax"].unit == u.mas and gaia[0].scalars["parallax"].error is not None
    assert gaia[0].scalars["phot_g_mean_flux"].unit == u.electron / u.s
    assert any(o.scalars["radial_velocity"].unit == u.km / u.s for o in gaia if "radial_velocity" in o.scalars)
    ceers = list(read_file(shared_data / "jwst_ceers_nircam" / "ceers_catalog.csv"))
    assert len(ceers) == 90 and None not in z_of(ceers) and sum("log_stellar_mass" in o.scalars for o in ceers) == 30
    pantheon = list(read_file(shared_data / "sn_pantheonplus" / "Pantheon+SH0ES.dat"))
    assert len(pantheon) == 1701 and pantheon[0].id == "2011fe" and pantheon[1].id == "2011fe#2"
    assert pantheon[0].scalars["z"].value == 0.00082 and pantheon[0].scalars["z"].error == 2e-5  # heliocentric, not zHD
    assert all(o.scalars[k].value != -9 for o in pantheon for k in ("ceph_dist", "host_logmass") if k in o.scalars)
    peculiar = list(read_file(shared_data / "sn_pantheonplus" / "all_redshifts_PVs.csv"))
    assert len(peculiar) == 2287 and z_of(peculiar)[0] == 0.057763
    bts = list(read_file(shared_data / "lightcurves" / "SNIa" / "bts.csv"))
    assert bts[0].position.ra.deg == pytest.approx(15 * (8 + 29 / 60 + 47.59 / 3600)) and bts[0].id == "ZTF17aadlxmv"


@pytest.mark.parametrize(("header", "rows", "expected"), [
    ("objid,ra,dec,u,g,r,i,z", ["1,1,2,20,19,18,17.5,17.1", "2,1,2,20,19,18,17.5,0.3"], [None, None]),  # z-band magnitudes
    ("id,x,y,z", ["1,1.5,2.5,0.5", "2,1,2,0.7"], [None, None]),  # a coordinate
    ("id,ra,dec,z", ["1,1,2,17.1", "2,1,2,18.3"], [None, None]),  # magnitudes by their size
    ("id,ra,dec,z_phot", ["1,1,2,0.3", "2,1,2,0.4"], [None, None]),
    ("id,ra,dec,photoz,zspec", ["1,1,2,0.3,0.31", "2,1,2,0.4,-99"], [0.31, None]),
    ("id,ra,dec,z_flag,zwarning", ["1,1,2,1,0", "2,1,2,1,0"], [None, None]),
    ("id,ra,dec,redshift", ["1,1,2,< 0.3", "2,1,2,0.4"], [None, 0.4]),
    ("id,ra,dec,redshift", ["1,1,2,nan", "2,1,2,-9.0"], [None, None]),
    ("id,ra,dec,redshift", ["1,1,2,999", "2,1,2,0.25"], [None, 0.25]),
    ("id,ra,dec,Z [mag]", ["1,1,2,0.3", "2,1,2,0.25"], [None, None]),
    ("id,ra,dec,redshift [km/s]", ["1,1,2,3000", "2,1,2,4000"], [None, None]),
    ("id,ra,dec,z", ["1,1,2,3", "2,1,2,250"], [None, None]),  # whole numbers: slices or flags
    ("id,ra,dec,Redshift,z", ["1,1,2,0.5,19.1", "2,1,2,0.6,19.2"], [0.5, 0.6]),
])
def test_what_is_a_redshift(tmp_path: Path, header: str, rows: list[str], expected: list[float | None]) -> None:
    assert z_of(objects(tmp_path, "\n".join([header, *rows]))) == expected


def test_photometric_redshift_has_its_own_name(tmp_path: Path) -> None:
    (found,) = objects(tmp_path, "id,ra,dec,ZPHOT,e_ZPHOT\n1,1,2,0.3,0.02\n")
    assert found.scalars["z_phot"].value == 0.3 and found.scalars["z_phot"].error == 0.02


def test_errors_units_and_sentinels(tmp_path: Path) -> None:
    (found, other) = objects(tmp_path, "TARGETID,RA,DEC,FLUX_G,FLUX_IVAR_G,e_Vmag,Vmag,sigma_mass,mass,x_err,x,SHAPE_E1\n"
                                       "39627,10,20,-0.5,4,0.1,99.0,0.2,10.5,-1,2.5,0\n39628,10,20,1.5,0,0.1,18.2,0.3,-99,0.5,2.5,0\n")
    flux = found.scalars["flux_g"]
    assert flux.value == -0.5 and flux.error == 0.5 and flux.unit == u.nmgy and other.scalars["flux_g"].error is None
    assert "vmag" not in found.scalars and other.scalars["vmag"].error == 0.1
    assert found.scalars["mass"].error == 0.2 and "flux_ivar_g" not in found.scalars and "e_vmag" not in found.scalars
    assert found.scalars["x"].error is None and other.scalars["x"].error == 0.5


@pytest.mark.parametrize(("text", "ra", "dec"), [
    ("name,RAJ2000,DEJ2000\na,10.5,-20.25\n", 10.5, -20.25),
    ("name,RA,Dec\na,08:29:47.59,+33:54:22.8\n", 127.448292, 33.906333),
    ("name,RA,Dec\na,08 29 47.59,-00 30 00\n", 127.448292, -0.5),
    ("name,RA (hours),Dec (deg)\na,08h29m47.59s,+33d54m22.8s\n", 127.448292, 33.906333),
    ("name,ra [rad],dec [rad]\na,1.0,0.5\n", 57.29577951, 28.64788976),
    ("name,ra,dec\na,-10,5\n", 350, 5),
])
def test_positions(tmp_path: Path, text: str, ra: float, dec: float) -> None:
    (found,) = objects(tmp_path, text)
    assert found.position.ra.deg == pytest.approx(ra, abs=1e-5) and found.position.dec.deg == pytest.approx(dec, abs=1e-5)


def test_galactic_b1950_and_absurd_positions(tmp_path: Path) -> None:
    (found,) = objects(tmp_path, "name,glon,glat\na,120.0,-30.0\n")
    assert found.position.separation(SkyCoord(120, -30, unit="deg", frame="galactic").icrs).arcsec < 0.01
    (found,) = objects(tmp_path, "name,RAB1950,DEB1950\na,120.0,-30.0\n")
    assert found.position.separation(SkyCoord(120, -30, unit="deg", frame="fk4").icrs).arcsec < 0.01
    found = objects(tmp_path, "name,ra,dec\na,10,95\nb,-999,-999\nc,,\n")
    assert [o.position for o in found] == [None] * 3 and "not on the sky" in " ".join(found[0].history)


def test_ids(tmp_path: Path) -> None:
    assert [o.id for o in objects(tmp_path, "id,ra,dec\n007,1,2\n008,1,2\n")] == ["007", "008"]
    assert [o.id for o in objects(tmp_path, "ra,dec\n1,2\n1,2\n", "stars.csv")] == ["stars-1", "stars-2"]
    assert [o.id for o in objects(tmp_path, "name,ra,dec\na,1,2\na,1,3\n")] == ["a", "a#2"]
    assert objects(tmp_path, "objid,ra,dec\n1237668393565487187,1,2\n")[0].id == "1237668393565487187"
    assert objects(tmp_path, "filename,ra,dec\n2.0_-9.6.jpg,1,2\n")[0].id == "2.0_-9.6"


def test_dialects(tmp_path: Path) -> None:
    casjobs = "#Table1\nobjid,ra,dec,class,z,zErr\n12376,10.5,2.5,GALAXY,0.12,1e-4\n"
    assert z_of(objects(tmp_path, casjobs)) == [0.12]
    vizier = "#RESOURCE=x\n#\nrecno\tRAJ2000\tDEJ2000\tVmag\tz\n\tdeg\tdeg\tmag\t\n"
    vizier += "-----\t---------\t------\t----\t-----\n1\t10.5\t-3.5\t17.2\t0.15\n"
    (found,) = objects(tmp_path, vizier, "asu.tsv")
    assert found.scalars["vmag"].unit == u.mag and z_of([found]) == [0.15] and found.position is not None
    ipac = (
        "\\catalog='x'\n|  ra   | dec   | w1mpro |\n"
        "|double |double | double |\n| deg   | deg   | mag    |\n| null  | null  | null   |\n"
        "  10.5    -3.5     null  \n  11.5    -4.5     15.5  \n"
    )
    first, second = objects(tmp_path, ipac, "irsa.tbl")
    assert "w1mpro" not in first.scalars and second.scalars["w1mpro"].unit == u.mag
    assert objects(tmp_path, "id;ra;dec\n1;10,5;2,5\n")[0].position is None  # decimal commas are no numbers: nothing is guessed
    assert objects(tmp_path, "# id ra dec\n a 10.5 2.5\n", "x.dat")[0].position is not None
    (found,) = objects(tmp_path, gzip.compress(b"id,ra,dec\na,1,2\n"), "x.csv.gz")
    assert found.id == "a"
    (found,) = objects(tmp_path, "name,ra,dec\nÉ,1,2\n".encode("latin-1"))
    assert found.id == "É" and any("Latin-1" in line for line in found.history)


def test_repeated_headers_unit_lines_and_words_among_numbers(tmp_path: Path) -> None:
    found = objects(tmp_path, "id,ra,dec,z\n1,10,20,0.5\nid,ra,dec,z\n2,11,21,0.6\n")
    assert z_of(found) == [0.5, 0.6] and found[1].id == "2"
    found = objects(tmp_path, "ra dec z logM\nhourangle deg - dex\n1.0 2.0 0.3 10\n3 4 0.5 11\n", "t.txt")
    assert found[0].position.ra.deg == pytest.approx(15) and z_of(found) == [0.3, 0.5]
    rows = "".join(f"{i},1,2,{i}.5\n" for i in range(9)) + "9,1,2,>16.1\n"
    found = objects(tmp_path, "id,ra,dec,duration\n" + rows)
    assert found[0].scalars["duration"].value == 0.5 and "duration" not in found[9].scalars
    assert any("duration: 1 values" in line for line in found[0].history)
    found = objects(
        tmp_path, "No.|Object Name|RA|DEC|Redshift|Redshift Flag\n1|N 1|1.8|27.7|0.015|\n2|N 2|1.9|27.6|0.02|PHOT\n", "ned.txt"
    )
    assert z_of(found) == [0.015, None] and found[1].scalars["z_phot"].value == 0.02 and found[0].id == "N 1"


@pytest.mark.parametrize("head", [
    "id,ra,dec,flux_g,flux_g_err\n#,deg,deg,nJy,uJy\n",
    "# -,[deg],[deg],[nJy],[uJy]\nid,ra,dec,flux_g,flux_g_err\n",
    "# id,ra,dec,flux_g,flux_g_err\n# -,deg,deg,nJy,uJy\n",
    "# a catalogue of mine\n#id,ra,dec,flux_g,flux_g_err\n#\n#,(deg),(deg),(nJy),(uJy)\n",
    "# -,deg,deg,nJy,uJy\n# id,ra,dec,flux_g,flux_g_err\n",
    "id,ra[deg],dec[deg],flux_g[nJy],flux_g_err (uJy)\n",
])
@pytest.mark.parametrize("delimiter", [",", " ", "\t"])
def test_units_in_comments_and_names_are_those_of_the_values(tmp_path: Path, head: str, delimiter: str) -> None:
    if delimiter == " ":
        head = head.replace("#,", "#,-,").replace("err (", "err(")
    found = objects(tmp_path, (head + "1,10.0,1.0,7261.56,0.05\n2,11.0,2.0,7000,0.05\n").replace(",", delimiter), "t.txt")
    flux = found[0].scalars["flux_g"]
    assert [o.id for o in found] == ["1", "2"] and found[1].position is not None and found[1].position.ra.deg == 11
    assert (flux.value, flux.unit) == (7261.56, u.nJy) and flux.error == pytest.approx(50)


def test_comments_that_are_no_units_are_left_alone(tmp_path: Path) -> None:
    for head in ("# my own table indeed\nid ra dec flux_g\n", "# my own table indeed\n# id ra dec flux_g\n"):
        found = objects(tmp_path, head + "1 10.0 1.0 5.0\n2 11.0 2.0 6.0\n", "t.txt")
        assert found[1].scalars["flux_g"].value == 6.0 and found[1].scalars["flux_g"].unit is None
    found = objects(tmp_path, "# Photometry of Pleiades\n# J H K\n10.5 10.0 9.5\n11.5 11.0 10.5\n", "t.txt")
    assert {name: s.value for name, s in found[1].scalars.items()} == {"j": 11.5, "h": 11.0, "k": 10.5}
    rows = "".join(f"{55000 + i} 18.{i} 0.1\n" for i in range(8))
    (found,) = objects(tmp_path, f"# Cepheid light curve\n# t m e\n{rows}", "c.dat")
    assert len(found.lightcurves[0].time) == 8


def test_votable_masks_bytes_and_coordinates(tmp_path: Path) -> None:
    table = Table({"name": np.array([b"a", b"b"]), "RA_ICRS": [1.0, 2.0] * u.deg, "DE_ICRS": [3.0, 4.0] * u.deg,
                   "Vmag": MaskedColumn([17.0, 0.0], mask=[False, True], unit="mag"), "z": [0.1, np.nan]})
    table.write(tmp_path / "t.vot", format="votable")
    first, second = read_file(tmp_path / "t.vot")
    assert (
        first.id == "a"
        and first.scalars["vmag"].unit == u.mag
        and "vmag" not in second.scalars
        and z_of([first, second]) == [0.1, None]
    )
    sky = Table({"id": ["a"], "coord": SkyCoord([10.0], [20.0], unit="deg")})
    sky.write(tmp_path / "t.ecsv", format="ascii.ecsv")
    (found,) = read_file(tmp_path / "t.ecsv")
    assert found.position is not None and found.position.dec.deg == 20


def test_one_spectrum_as_a_table(tmp_path: Path) -> None:
    rows = "\n".join(f"{3800 + i},{1.0 + i},{2.0}" for i in range(20))
    (found,) = objects(tmp_path, f"Wavelength,Flux,ivar\n{rows}\n", "spec-1.csv")
    spectrum = found.spectra[0]
    assert spectrum.wavelength[0] == 3800 and len(spectrum.flux) == 20 and found.id == "spec-1" and not spectrum.calibrated
    (found,) = objects(tmp_path, "wavelength_air [nm],flux\n" + "\n".join(f"{650 + i},{i}" for i in range(20)))
    assert found.spectra[0].wavelength[0] == pytest.approx(6501.796, abs=2e-3)


def test_air_to_vacuum_on_known_lines() -> None:
    """H-alpha, [O III] and Na D: NIST's air and vacuum wavelengths."""
    np.testing.assert_allclose(to_vacuum(np.array([6562.79, 5006.843, 5889.951])), [6564.60, 5008.240, 5891.583], atol=5e-3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"  \n\n", "empty"),
        (b"\x00\x01\x02binary" * 50, "binary"),
        (b"<html><body>404</body></html>", "web page"),
        (b"id,ra,dec\n1,2\n", "line 2 has 2 values"),
        (b"id,ra,dec\n1,2,3\n4,5", "line 3"),
        (b"id,ra,dec\n", "no row"),
        (b"id,z,z\n1,2,3\n", "more than one column"),
        (b"1,2,3,4\n5,6,7,8\n", "no line that names"),
        (b"abc\ndef\n", "single column"),
        (b",".join(b"c%d" % i for i in range(30000)) + b"\n" + b",".join(b"1" for _ in range(30000)), "30,000 columns"),
        (b"# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datat", "ECSV"),
        (b"<?xml version='1.0'?><VOTABLE><RESOURCE><TABLE>", "VOTable"),
        (b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><VOTABLE/>", "entities"),
        (
            b"<VOTABLE><RESOURCE><TABLE><FIELD name='a' datatype='int'/><DATA><BINARY><STREAM href='http://x/y'/></BINARY></DATA></TABLE>"
            b"</RESOURCE></VOTABLE>",
            "another file",
        ),
        (
            b"<VOTABLE><RESOURCE><TABLE nrows='99999999999'><FIELD name='a' datatype='int'/></TABLE></RESOURCE></VOTABLE>",
            "promises",
        ),
        (
            b'<VOTABLE><RESOURCE type=\'results\'><INFO name="QUERY_STATUS" value="ERROR">bad ADQL</INFO></RESOURCE></VOTABLE>',
            "bad ADQL",
        ),
        (b"\x1f\x8b\x08broken", "damaged"),
        (b'id,ra\n"1,2\n3,4\n', "line"),
    ],
)
def test_one_sentence_for_what_is_no_table(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ReadError, match=says) as caught:
        objects(tmp_path, content, "bad.csv")
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_corrupted_at_random_only_read_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    table = Table(
        {
            "id": [f"s{i}" for i in range(20)],
            "ra": rng.uniform(0, 360, 20) * u.deg,
            "dec": rng.uniform(-90, 90, 20) * u.deg,
            "z": rng.uniform(0, 1, 20),
            "coeff": rng.normal(size=(20, 3)),
        }
    )
    sources = {}
    for name, kind in (("t.csv", "ascii.csv"), ("t.ecsv", "ascii.ecsv"), ("t.vot", "votable"), ("t.tbl", "ascii.ipac")):
        flat = table if kind in ("ascii.ecsv", "votable") else table["id", "ra", "dec", "z"]
        flat.write(tmp_path / name, format=kind)
        sources[name] = (tmp_path / name).read_bytes()
    outcomes = set()
    for i in range(200):
        name = sorted(sources)[i % 4]
        raw = bytearray(sources[name])
        if i % 3 == 0:
            raw = raw[:rng.integers(0, len(raw))]
        for at in rng.integers(0, max(1, len(raw)), min(len(raw), 10)):
            raw[at] = rng.integers(256)
        (tmp_path / f"damaged-{name}").write_bytes(raw)
        try:
            for o in read_file(tmp_path / f"damaged-{name}"):
                assert o.position is None or abs(o.position.dec.deg) <= 90
            outcomes.add("read")
        except ReadError as problem:
            assert f"damaged-{name}" in str(problem)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
