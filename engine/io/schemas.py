"""What files say of their columns beside the columns: the fields of Arrow, astropy's header in YAML, a VOTable without rows.

astropy writes its header into Parquet and HDF5 (as in ECSV, APE 6); the Virtual Observatory a VOTable into Parquet
(VOParquet 1.0, an IVOA note), HATS catalogues into their `_common_metadata`. What is damaged is passed over and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
import yaml

from engine.io.columns import Field

YAML_HEADER, VOTABLE = b"table_meta_yaml", b"IVOA.VOTable-Parquet.content"


class _Plain(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml, 20 times as fast
    """Texts, numbers, lists and mappings; of any other tag, astropy's or Python's, nothing is made."""


_Plain.add_constructor(None, lambda loader, node: None)


def described(schema: pa.Schema) -> tuple[dict[str, Field], tuple[str, ...]]:
    """Column -> Field of those columns of which the schema tells more than the name; and what is damaged in it."""
    metadata = schema.metadata or {}
    found: dict[str, Field] = {}
    notes: tuple[str, ...] = ()
    for key, parse, what in ((VOTABLE, _of_votable, "VOTable"), (YAML_HEADER, of_header, "astropy header")):
        if key in metadata:
            fields = parse(metadata[key].decode(errors="replace"))
            found.update(fields or {})
            notes += () if fields is not None else (f"units not read: the {what} in its metadata is damaged",)
    for f in reversed([m for column in schema for m in (column, *_members(column))]):  # the first of a name counts, as in rows
        told = {k.decode(errors="replace").lower(): v.decode(errors="replace").strip() for k, v in (f.metadata or {}).items()}
        unit = told.get("unit") or told.get("units")
        if unit:
            found[f.name] = Field(f.name, unit, told.get("ucd", ""))
    return found, notes


def _members(f: pa.Field) -> list[pa.Field]:
    return [f.type.field(i) for i in range(f.type.num_fields)] if pt.is_struct(f.type) else []


@lru_cache(maxsize=8)  # the parts of a catalogue have the same
def of_header(text: str) -> dict[str, Field] | None:
    """Column -> Field of those with a unit in astropy's header, None if it is damaged."""
    try:
        columns = yaml.load(text, _Plain)["datatype"]
        told = [(c.get("name"), c.get("unit")) for c in columns]  # anything else may stand for gigabytes of text
        return {name: Field(name, unit) for name, unit in told if isinstance(name, str) and isinstance(unit, str) and unit}
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@lru_cache(maxsize=8)
def _of_votable(text: str) -> dict[str, Field] | None:
    """Column -> Field of those with a unit or UCD in a VOTable, None if it is damaged. Nothing it refers to is opened."""
    try:
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            return None
        told = [e.attrib for e in ElementTree.fromstring(text).iter() if str(e.tag).rsplit("}", 1)[-1] == "FIELD"]
    except (ElementTree.ParseError, ValueError):
        return None
    return {a["name"]: Field(a["name"], a.get("unit") or None, a.get("ucd", ""))
            for a in told if "name" in a and (a.get("unit") or a.get("ucd"))}


def masked(block: Mapping[str, Any]) -> dict[str, Any]:
    """The columns without those that astropy names flux_g.mask: where they are true, the value of flux_g is missing."""
    out = dict(block)
    for name in block:
        mask = out.get(f"{name}.mask")
        if mask is not None and mask.dtype.kind == "b" and mask.shape == block[name].shape:
            del out[f"{name}.mask"]
            out[name] = np.where(mask, None, block[name]) if block[name].dtype.kind in "OUS" else np.ma.array(
                block[name], mask=np.ma.getmaskarray(block[name]) | np.ma.getdata(mask))
    return out
