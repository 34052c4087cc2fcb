"""Parquet: flat tables, the Multimodal Universe's nested rows, HATS catalogues, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from engine.io.errors import ReadError
from engine.io.parquet import hats_files, is_hats, read_file
from engine.objects import Scalar


def save(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def nested_images(as_lists: bool, n: int = 3, size: int = 8) -> pa.Array:
    """Images as the `datasets` library stores a Sequence of features: a struct of lists, or a list of structs."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(n):
        ivar = np.ones((5, size, size), "f4")
        ivar[:, 0, 0] = 0
        mask = ivar > 0
        mask[2, 4, 4] = False
        rows.append(
            {
                "band": [f"hsc-{b}" for b in "grizy"],
                "flux": rng.normal(size=(5, size, size)).tolist(),
                "ivar": ivar.tolist(),
                "mask": mask.tolist(),
                "psf_fwhm": [0.6] * 5,
                "scale": [0.168] * 5,
            }
        )
    kinds = {"band": pa.string(), "flux": pa.list_(pa.list_(pa.float32())), "ivar": pa.list_(pa.list_(pa.float32())),
             "mask": pa.list_(pa.list_(pa.bool_())), "psf_fwhm": pa.float32(), "scale": pa.float32()}
    if as_lists:
        return pa.array(rows, pa.struct([(k, pa.list_(t)) for k, t in kinds.items()]))
    records = [[{k: row[k][i] for k in kinds} for i in range(5)] for row in rows]
    return pa.array(records, pa.list_(pa.struct(list(kinds.items()))))


@pytest.mark.parametrize("as_lists", [True, False])
def test_nested_images(tmp_path: Path, as_lists: bool) -> None:
    path = save(tmp_path / "train-00000.parquet", object_id=["a", "b", "c"], ra=[1.0, 2.0, np.nan], dec=[0.0, 1.0, 2.0],
                image=nested_images(as_lists), g_cmodel_mag=[20.5, 21.0, np.nan], g_cmodel_magerr=[0.1, np.nan, 0.1])
    first, _, third = read_file(path)
    image = first.image("hsc")
    assert image is not None and image.bands == tuple("grizy") and image.pixel_scale == pytest.approx(0.168)
    assert (1 * image.unit).to_value(u.nmgy) == pytest.approx(10 ** (0.4 * (22.5 - 27.0)))
    assert image.mask is not None and image.mask.sum() == 6 and image.mask[2, 4, 4] and image.mask[0, 0, 0]
    assert first.scalars["mag_g"].value == 20.5 and first.scalars["mag_g"].error == pytest.approx(0.1)
    assert "mag_g" not in third.scalars and third.position is None


def test_nested_spectrum_light_curve_and_structs(tmp_path: Path) -> None:
    wave = 3600 + 0.8 * np.arange(40)
    spectrum = pa.array([{"flux": np.ones(40), "ivar": np.ones(40), "lambda": wave, "mask": np.zeros(40, bool),
                          "lsf_sigma": np.full(40, -1.0)}, None])
    curve = pa.array(
        [
            {"band": ["g", "g", "r"], "time": [60000.0, 60001.0, 0.0], "flux": [1.0, -2.0, 0.0], "flux_err": [0.1, 0.2, 0.0]},
            None,
        ]
    )
    photometry = pa.array(
        [{"phot_g_mean_flux": 5.0, "phot_g_mean_flux_error": 0.5}, {"phot_g_mean_flux": None, "phot_g_mean_flux_error": None}]
    )
    path = save(tmp_path / "desi.parquet", object_id=["1", "2"], spectrum=spectrum, lightcurve=curve, photometry=photometry,
                Z=[0.3, 999.0], ZERR=[1e-4, 0.0])
    first, second = read_file(path, "desi")
    found = first.spectra[0]
    # R = lambda / FWHM with FWHM = 2.3548 * 1 pixel * 0.8 A, whatever the sign of the fitted width
    assert found.resolution[10] == pytest.approx(found.wavelength[10] / (2.3548 * 0.8), rel=1e-3)
    assert found.survey == "desi" and found.unit is not None and found.calibrated
    assert [(c.band, list(c.flux)) for c in first.lightcurves] == [("g", [1.0, -2.0])]
    assert first.scalars["phot_g_mean_flux"].error == 0.5 and "phot_g_mean_flux" not in second.scalars
    assert first.scalars["z"].value == 0.3 and "z" not in second.scalars and second.spectra == ()


def test_flat_table_and_measurements_over_time(tmp_path: Path) -> None:
    path = save(tmp_path / "flat.parquet", objid=[10**18 + 1, 10**18 + 2], ra=[10.0, 20.0], dec=[-91.0, 5.0], z=[17.2, 18.1],
                g=[19.0, -9999.0], r=[18.0, 18.0], i=[17.5, 17.6])
    first, second = read_file(path)
    assert first.id == str(10**18 + 1) and first.position is None and second.position is not None
    assert "z" not in first.scalars and first.scalars["z_mag"].value == 17.2 and "g" not in second.scalars
    path = save(
        tmp_path / "long.parquet",
        object_id=[7, 7, 8],
        mjd=[60000.0, 60001, 60002],
        passband=[0, 0, 5],
        flux=[1.0, 2, 3],
        flux_err=[0.1, 0.1, 0.2],
    )
    assert [(o.id, [c.band for c in o.lightcurves]) for o in read_file(path)] == [("7", ["u"]), ("8", ["Y"])]


def fluxes_in_njy() -> Table:
    return Table({"id": ["a", "b"], "ra": [1.0, 2.0], "dec": [3.0, 4.0], "flux_g": [7261.56, 10.0] * u.nJy,
                  "flux_g_err": [0.05, 0.05] * u.uJy, "mag_r": [20.0, 21.0], "z": [0.1, 0.2]},
                 units={"ra": u.deg, "dec": u.deg, "mag_r": u.ABmag})


def with_metadata(path: Path, of_file: dict | None = None, of_flux: dict | None = None) -> Path:
    """A table without units of its own, with what the file and the column flux_g say beside the rows."""
    table = pa.table({"id": ["a", "b"], "flux_g": [7261.56, 10.0], "flux_g_err": [50.0, 50.0]})
    field = table.schema.field("flux_g").with_metadata(of_flux)
    pq.write_table(table.cast(table.schema.set(1, field).with_metadata(of_file)), path)
    return path


def test_units_that_astropy_writes_into_parquet_are_those_of_the_values(tmp_path: Path) -> None:
    fluxes_in_njy().write(tmp_path / "t.parquet")
    first, _ = read_file(tmp_path / "t.parquet")
    flux = first.scalars["flux_g"]
    assert (flux.value, flux.unit) == (7261.56, u.nJy) and flux.error == pytest.approx(50)  # errors in uJy
    assert first.scalars["mag_r"].unit == u.ABmag and first.scalars["z"].value == 0.1 and first.position is not None


@pytest.mark.parametrize("of_flux", [{"unit": "nJy"}, {"Units": " nJy "}, {"UNIT": "njy"}])
def test_units_of_arrow_fields_are_those_of_the_values(tmp_path: Path, of_flux: dict) -> None:
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", of_flux=of_flux))
    assert first.scalars["flux_g"].unit == u.nJy


def test_units_of_members_of_structs_are_those_of_the_values(tmp_path: Path) -> None:
    kind = pa.struct([pa.field("flux_g", pa.float64(), metadata={"unit": "nJy"})])
    found, = read_file(save(tmp_path / "t.parquet", id=["a"], photometry=pa.array([{"flux_g": 5.0}], kind)))
    assert found.scalars["flux_g"].unit == u.nJy


def test_what_astropy_masks_is_missing(tmp_path: Path) -> None:
    table = Table({"id": ["a", "b"], "flux_g": [5.0, 6.0], "n": [5, 6], "kind": ["STAR", "QSO"]}, masked=True)
    for i, name in enumerate(("flux_g", "n", "kind")):
        table[name].mask = np.arange(2) == i % 2
    table.write(tmp_path / "t.parquet")
    first, second = read_file(tmp_path / "t.parquet")
    assert dict(first.scalars) == {"n": Scalar(5)}
    assert dict(second.scalars) == {"flux_g": Scalar(6.0), "kind": Scalar("QSO")}


VOTABLE = """<?xml version="1.0" encoding="utf-8"?><VOTABLE xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>
<FIELD name="id" datatype="char"/><FIELD name="flux_g" unit="nJy" ucd="phot.flux" datatype="double"/>
<DATA><PARQUET type="Parquet-local-XML"><STREAM href="elsewhere.parquet"/></PARQUET></DATA></TABLE></RESOURCE></VOTABLE>"""


def test_units_of_a_votable_are_those_of_the_values_of_a_file_and_of_a_hats_catalogue(tmp_path: Path) -> None:
    told = {"IVOA.VOTable-Parquet.content": VOTABLE}
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", told))
    assert first.scalars["flux_g"].unit == u.nJy
    part = tmp_path / "hats/dataset/Norder=0/Dir=0/Npix=4.parquet"
    part.parent.mkdir(parents=True)
    (tmp_path / "hats/hats.properties").write_text("hats_nrows=2\ndataproduct_type=object\n")
    with_metadata(part)
    schema = pq.read_schema(part)
    pq.write_metadata(schema.with_metadata(told), tmp_path / "hats/dataset/_common_metadata")
    assert [o.scalars["flux_g"].unit for o in read_file(tmp_path / "hats")] == [u.nJy, u.nJy]
    (tmp_path / "hats/dataset/_common_metadata").write_bytes(b"PAR1 cut")
    first, _ = read_file(tmp_path / "hats")
    assert first.scalars["flux_g"].unit is None
    assert any("_common_metadata of its catalogue is damaged" in h for h in first.history)


@pytest.mark.parametrize("text", ["datatype:\n- {name: flux_g, unit: nJ", "datatype: 7", "datatype: [7]", "[" * 10_000, "",
                                  "\udcff", "!!python/object/apply:os.system ['echo harm']", "datatype: !!python/name:os.x"])
def test_a_damaged_header_stops_no_file_and_runs_nothing(tmp_path: Path, text: str) -> None:
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", {"table_meta_yaml": text.encode(errors="surrogateescape")}))
    assert first.scalars["flux_g"].value == 7261.56 and first.scalars["flux_g"].unit is None
    assert "units not read: the astropy header in its metadata is damaged" in first.history
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", {"table_meta_yaml": text.encode(errors="surrogateescape")},
                                       {"unit": "nJy"}))
    assert first.scalars["flux_g"].unit == u.nJy


@pytest.mark.parametrize("text", [VOTABLE[:200], "", '<!DOCTYPE a [<!ENTITY b "c">]>' + VOTABLE])
def test_a_damaged_votable_stops_no_file(tmp_path: Path, text: str) -> None:
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", {"IVOA.VOTable-Parquet.content": text}))
    assert first.scalars["flux_g"].unit is None and any("the VOTable in its metadata is damaged" in h for h in first.history)


def test_a_name_that_stands_for_gigabytes_is_none(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    header = f"{bomb}datatype:\n- {{name: *a9, unit: *a9}}\n- {{name: flux_g, unit: nJy}}\n"
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", {"table_meta_yaml": header}))
    assert first.scalars["flux_g"].unit == u.nJy


def test_things_of_other_tags_in_a_header_are_passed_over(tmp_path: Path) -> None:
    header = ("datatype:\n- {name: flux_g, unit: nJy, datatype: float64}\nmeta: !!omap\n"
              "- a: !astropy.units.Unit {unit: m}\n- b: !!python/object/apply:os.system ['echo harm']\n- c: !mine [1]\n")
    first, _ = read_file(with_metadata(tmp_path / "t.parquet", {"table_meta_yaml": header}))
    assert first.scalars["flux_g"].unit == u.nJy


def test_real_hats(shared_data: Path) -> None:
    root = shared_data / "hats_synthetic"
    assert len(list(read_file(root / "small_sky_source"))) == 17161
    found = list(read_file(root / "small_sky_o1_collection"))
    assert len(found) == 131 and len({o.id for o in found}) == 131 and all(o.position is not None for o in found)
    assert is_hats(root / "small_sky_o1_collection") and len(hats_files(root / "small_sky_o1_collection")) == 4
    for other in ("small_sky_order1_margin", "small_sky_order1_id_index"):
        with pytest.raises(ReadError, match=other):
            list(read_file(root / "small_sky_o1_collection" / other))
    margin = next((root / "small_sky_o1_collection" / "small_sky_order1_margin").rglob("Npix=*.parquet"))
    with pytest.raises(ReadError, match="repeats rows"):
        list(read_file(margin))


def test_hipscat_names_and_missing_parts(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    part = folder / "Norder=1" / "Dir=0"
    part.mkdir(parents=True)
    (folder / "catalog_info.json").write_text(json.dumps({"catalog_name": "old", "catalog_type": "object", "ra_column": "lon",
                                                          "dec_column": "lat"}))
    save(part / "Npix=44.parquet", name=["a"], lon=[320.0], lat=[-45.0])
    (found,) = read_file(folder)
    assert found.position is not None and found.position.ra.deg == pytest.approx(320.0)
    shutil.rmtree(folder / "Norder=1")
    with pytest.raises(ReadError, match="without partitions"):
        list(read_file(folder))
    (tmp_path / "collection.properties").write_text("hats_primary_table_url=../../etc\n")
    with pytest.raises(ReadError, match="primary table"):
        list(read_file(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PAR1 is not enough", b"PAR1" + bytes(100) + b"PAR1"])
def test_foreign_and_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ReadError, match=r"x\.parquet"):
        list(read_file(tmp_path / "x.parquet"))


def test_empty_table_and_duplicated_columns(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="without rows"):
        list(read_file(save(tmp_path / "none.parquet", ra=pa.array([], pa.float64()))))
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["z", "z"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(ReadError, match=r"twice\.parquet.*more than one column"):
        list(read_file(tmp_path / "twice.parquet"))


def test_corrupted_at_random_only_read_errors(tmp_path: Path) -> None:
    whole = save(
        tmp_path / "whole.parquet", object_id=["a", "b", "c"], ra=[1.0, 2.0, 3.0], image=nested_images(True)
    ).read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for i in range(60):
        raw = bytearray(whole)
        raw = raw[:rng.integers(1, len(raw))] if i % 3 == 0 else raw
        for at in rng.integers(0, len(raw), 0 if i % 3 == 0 else 12):
            raw[at] = rng.integers(256)
        (tmp_path / "damaged.parquet").write_bytes(raw)
        try:
            assert len(list(read_file(tmp_path / "damaged.parquet"))) <= 3
        except ReadError as problem:
            assert "damaged.parquet" in str(problem)
            refused += 1
    assert refused > 20
