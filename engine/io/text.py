"""Delimited text (CSV, TSV, blanks) of any survey as blocks of columns: delimiter, header, units and types are found.

Two passes: the first checks every line and finds each column's type, the second yields blocks, so that memory stays
bounded and a damaged line is told before anything is handed on.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from engine.io.columns import MISSING, Field, check_names, normal, number_or_none, split_unit
from engine.io.errors import ReadError
from engine.io.units import clean_unit

BLOCK = 8192
MAX_FIELD = 1 << 26  # characters: a vector of a million numbers still fits, a file without line ends does not
MAX_LINE = 1 << 28
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17}|[1-8]\d{18}|9[01]\d{17})")  # what int64 holds
_RULE = re.compile(r"[\s,;|\t+\-=]*-{2,}[\s,;|\t+\-=]*")


def head(path: Path, size: int = 65536) -> str:
    """The beginning of a text file (gzip undone). Raises ReadError if it is empty or not text."""
    with open_binary(path) as stream:
        raw = guarded(path, lambda: stream.read(size))
    if not raw.strip():
        raise ReadError(path, "is empty; copy or download it again")
    if b"\x00" in raw or sum(b < 9 or 13 < b < 32 for b in raw[:4096]) > 8:
        raise ReadError(path, "is not a text table but binary data; give it the ending of its true format or convert it")
    return raw.decode("utf-8-sig", errors="replace")


def open_binary(path: Path) -> Any:
    """The file's bytes, gzip undone. Raises ReadError if it cannot be opened."""
    try:
        stream = path.open("rb")
    except OSError as problem:
        raise ReadError(
            path, f"cannot be opened ({problem.strerror or problem}); check the file and its permissions"
        ) from problem
    if stream.read(2) == b"\x1f\x8b":
        stream.close()
        return gzip.open(path, "rb")
    stream.seek(0)
    return stream


def guarded(path: Path, read: Any) -> Any:
    """What `read` returns; a file that breaks off or is damaged becomes a ReadError."""
    try:
        return read()
    except (OSError, EOFError, zlib.error) as problem:
        raise ReadError(path, f"breaks off or is damaged ({problem}); copy it again") from problem


def open_text(path: Path) -> tuple[TextIO, bool]:
    """The file as text (gzip undone), and whether it had to be read as Latin-1 because it is not UTF-8."""
    decoder, latin = codecs.getincrementaldecoder("utf-8-sig")(), False
    with open_binary(path) as stream:
        try:
            while chunk := guarded(path, lambda: stream.read(1 << 20)):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            latin = True
    raw = open_binary(path)
    return io.TextIOWrapper(raw, encoding="latin-1" if latin else "utf-8-sig", newline=""), latin


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file. Raises ReadError where it breaks off or has no line ends."""
    stream, _ = open_text(path)
    with stream:
        while True:
            line = guarded(path, lambda: stream.readline(MAX_LINE))
            if not line:
                return
            if len(line) >= MAX_LINE:
                raise ReadError(path, "has a line of more than 256 million characters; it is not a table")
            yield line.replace("\x00", "")


@dataclass
class TextTable:
    """A delimited text file that has been looked through. kinds: "int", "float", "bool", "mixed" or "text" a column."""

    path: Path
    fields: list[Field]
    delimiter: str | None  # None: blanks
    skip: int  # lines before the first row
    kinds: list[str] = field(default_factory=list)
    rows: int = 0
    prefix: str | None = None  # rows start with this word (SNANA's "SN:")
    history: tuple[str, ...] = ()

    def cells(self) -> Iterator[list[str]]:
        """The rows as lists of texts. Raises ReadError naming the line where a row is longer or shorter than the header."""
        names, width = [f.name for f in self.fields], len(self.fields)
        for number, row in self._raw():
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            if self.prefix:
                if row[0] != self.prefix:
                    continue
                row = row[1:]
            if row == names:
                continue  # files put one after the other repeat their header
            if len(row) == width + 1 and not row[-1].strip():
                row = row[:-1]  # a delimiter at the end of each line
            if len(row) != width:
                raise ReadError(
                    self.path,
                    f"line {number} has {len(row)} values where the header names {width} columns; the file is "
                    "cut off, damaged or has another delimiter: copy it again or correct that line",
                )
            yield row

    def _raw(self) -> Iterator[tuple[int, list[str]]]:
        source = enumerate(lines(self.path), start=1)
        body = ((n, line) for n, line in source if n > self.skip and not line.lstrip().startswith("#"))
        if self.delimiter is None:
            for n, line in body:
                yield (
                    n,
                    (
                        line.split()
                        if '"' not in line
                        else next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True))
                    ),
                )
            return
        at = [self.skip]

        def feed() -> Iterator[str]:
            for n, line in body:
                at[0] = n
                yield line

        csv.field_size_limit(MAX_FIELD)
        reader = csv.reader(feed(), delimiter=self.delimiter, skipinitialspace=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as problem:
                raise ReadError(
                    self.path, f"line {at[0]} is not readable as a table ({problem}); correct or remove that line"
                ) from problem
            if row is None:
                return
            yield at[0], row

    def inspect(self) -> TextTable:
        """Look through all rows: types and number. Raises ReadError if a row is damaged or there is none."""
        states = [_Kind(normal(f.name)) for f in self.fields]
        for row in self.cells():
            self.rows += 1
            for state, cell in zip(states, row, strict=True):
                state.see(cell)
        self.kinds = [s.decide() for s in states]
        self.history += tuple(f"{f.name}: {s.words} values that are no numbers left out"
                              for f, s in zip(self.fields, states, strict=True) if s.decide() == "mixed")
        return self

    def blocks(self, size: int = BLOCK) -> Iterator[dict[str, Any]]:
        """Blocks of rows as name -> array: numbers masked where missing, bool, or text."""
        rows: list[list[str]] = []
        for row in self.cells():
            rows.append(row)
            if len(rows) == size:
                yield self._columns(rows)
                rows = []
        if rows:
            yield self._columns(rows)

    def _columns(self, rows: list[list[str]]) -> dict[str, Any]:
        return {f.name: typed(column, kind) for f, kind, column in
                zip(self.fields, self.kinds, zip(*rows, strict=True), strict=True)}


class _Kind:
    """The narrowest type that holds a column's values; a few limits or words among numbers do not make it text."""

    def __init__(self, name: str) -> None:
        self.kind, self.numbers, self.words = "int", 0, 0
        self.names_things = bool(re.search(r"id$|name$|^(num|number|designation|filename)$", name))

    def see(self, cell: str) -> None:
        text = cell.strip()
        if text.lower() in MISSING:
            return
        if text.lower() in ("true", "false") and self.kind in ("int", "bool") and not self.numbers:
            self.kind, self.words = "bool", self.words + 1
        elif number_or_none(text) is None or (re.fullmatch(r"[+-]?(0\d+|\d{18,})", text) and not _INTEGER.fullmatch(text)):
            self.kind, self.words = "text", self.words + 1
        else:
            self.numbers += 1
            if self.kind == "bool":
                self.kind = "text"
            elif self.kind == "int" and not _INTEGER.fullmatch(text):
                self.kind = "float"

    def decide(self) -> str:
        """ "int", "float", "bool" or "text"; "mixed" where four of five values are numbers and the column names nothing."""
        mostly = self.numbers >= 4 * self.words and self.words and not self.names_things
        return "mixed" if self.kind == "text" and mostly else self.kind


def typed(cells: Sequence[str], kind: str) -> Any:
    """A column of texts as a masked array of int64 or float64, of bools, or as an object array of texts."""
    if kind == "text":
        out = np.empty(len(cells), dtype=object)
        out[:] = cells
        return out
    if kind == "mixed":
        numbers = [number_or_none(c) for c in cells]
        return np.ma.array([n or 0.0 for n in numbers], mask=[n is None for n in numbers], dtype=float)
    missing = np.array([c.strip().lower() in MISSING for c in cells])
    if kind == "bool":
        return np.ma.array([c.strip().lower() == "true" for c in cells], mask=missing)
    cast = int if kind == "int" else float
    return np.ma.array([cast(c) if not m else 0 for c, m in zip(cells, missing, strict=True)], mask=missing,
                       dtype=np.int64 if kind == "int" else float)


# -- header ---------------------------------------------------------------------------------------------------------

def open_table(path: Path) -> TextTable:
    """Find delimiter, header and units of a delimited text file and look through it. Raises ReadError if it is no table."""
    start = head(path, 1 << 20)
    first = start.splitlines()
    comments: list[tuple[int, str]] = []
    body: list[tuple[int, str]] = []
    for number, line in enumerate(first, start=1):
        if not line.strip():
            continue
        (comments if line.lstrip().startswith("#") else body).append((number, line))
        if len(body) == 30:
            break
    if len(start) >= 1 << 20 and len(first) == 1:
        raise ReadError(
            path, f"begins with a line of more than {1 << 20:,} characters, too long for the names of columns; it is no table"
        )
    if not body:
        raise ReadError(path, "has no rows, only comments or blank lines; query or download it again")
    if len(first) > 1 and len(body) > 1 and len(start) >= 1 << 20 and len(body) < 30:
        body = body[:-1]  # the last line of the piece read may be cut
    if body[0][1].split()[0].rstrip(":") == "VARNAMES":
        names = body[0][1].split()[1:]
        check_names(path, names)
        return TextTable(path, [Field(n) for n in names], None, body[0][0], prefix="SN:").inspect()
    delimiter = _delimiter([line for _, line in body])
    header, skip, units = _header(path, comments, body, delimiter)
    check_names(path, header)
    fields = [Field(n, u) for n, u in zip(header, units, strict=True)]
    table = TextTable(path, fields, delimiter, skip).inspect()
    if open_latin(path):
        table.history += ("text is not UTF-8, read as Latin-1",)
    return table


def open_latin(path: Path) -> bool:
    """Whether the file is not UTF-8."""
    stream, latin = open_text(path)
    stream.close()
    return latin


def split(line: str, delimiter: str | None) -> list[str]:
    """One line's values."""
    if delimiter is None:
        return line.split()
    csv.field_size_limit(MAX_FIELD)
    return [c.strip() for c in next(csv.reader([line.strip("\r\n")], delimiter=delimiter, skipinitialspace=True))]


def _delimiter(body: list[str]) -> str | None:
    """The delimiter whose count is the same in all lines (quotes respected), the most frequent of them; None for blanks."""
    best, score = None, 0
    for delimiter in (",", "\t", ";", "|"):
        try:
            widths = [len(split(line, delimiter)) for line in body[:20]]
        except (csv.Error, StopIteration):
            continue
        if widths[0] > 1 and widths[0] > score and sum(w == widths[0] for w in widths) >= 0.5 * len(widths):
            best, score = delimiter, widths[0]
    return best


def _is_units(second: list[str], third: list[str]) -> bool:
    """Whether the line under the header gives units: no number in it, some units, and numbers in the line below."""
    if len(second) != len(third) or any(number_or_none(x) is not None for x in second):
        return False
    known = [clean_unit(s) is not None and number_or_none(t) is not None for s, t in zip(second, third, strict=True)]
    return any(known) and all(
        k or clean_unit(s) is not None or s.lower() in MISSING for k, s in zip(known, second, strict=True)
    )


def _header(path: Path, comments: list[tuple[int, str]], body: list[tuple[int, str]],
            delimiter: str | None) -> tuple[list[str], int, list[Any]]:
    """(names, lines before the first row, units). Raises ReadError if no line names the columns."""
    names = split(body[0][1], delimiter)
    numeric = [number_or_none(n) is not None or n.lower() in MISSING for n in names]
    if any(numeric) and not (sum(numeric) == 1 and names[0] == "" and not any(numeric[1:])):
        above = [c for n, line in reversed(comments) if n < body[0][0] and (c := _commented(line, delimiter, len(names)))]
        if above:  # "# MJD mag err" or "###MJD m dm" just above the numbers, its units above or below it
            first, second = above[0], above[1] if len(above) > 1 else []
            if second and _units(first) and not _units(second) and max(map(len, first)) > 1:  # "t m e" under a title: names
                first, second = second, first
            return first, body[0][0] - 1, _units(second) or [None] * len(names)
        of_sextractor = _sextractor(comments, len(names))
        if of_sextractor is not None:
            return of_sextractor[0], body[0][0] - 1, of_sextractor[1]
        guess = _unnamed([split(line, delimiter) for _, line in body]) if len(names) in (2, 3) and all(numeric) else None
        if guess is None:
            such = "wavelength,flux or mjd,mag,mag_err" if len(names) < 4 else "id,ra,dec,redshift"
            what = f"{len(names)} columns" if len(names) > 1 else "only column"
            raise ReadError(path, f"has no line that names its {what}; add a header such as {such}")
        return guess[:len(names)], body[0][0] - 1, [None] * len(names)
    units: list[Any]
    skip, units = body[0][0], [split_unit(n)[1] for n in names]
    rules = [i for i, (_, line) in enumerate(body[1:3], start=1) if _RULE.fullmatch(line)]
    if rules:  # VizieR: names, units, a rule of dashes
        if rules[0] == 2:
            found_units = body[1][1].rstrip("\r\n").split(delimiter) if delimiter else body[1][1].split()
            if len(found_units) == len(names):
                units = [x.strip() or None for x in found_units]
        skip = body[rules[0]][0]
    elif len(body) > 2 and _is_units(split(body[1][1], delimiter), split(body[2][1], delimiter)):
        units, skip = [clean_unit(x) for x in split(body[1][1], delimiter)], body[1][0]
    else:  # "#,deg,deg,nJy" beside the header
        beside = [_commented(line, delimiter, len(names)) for n, line in comments if abs(n - body[0][0]) == 1]
        units = next((told for cells in beside if cells and (told := _units(cells))), units)
    if names and names[0] == "" and "" not in names[1:]:
        names[0] = "index"  # the row numbers pandas writes
    names = [n or f"column_{i + 1}" for i, n in enumerate(names)]
    if len(names) == 1 and delimiter is None:
        raise ReadError(path, "has a single column and no values beside it; nothing in it can be shown on a map")
    return names, skip, units


def _commented(line: str, delimiter: str | None, width: int) -> list[str] | None:
    """The cells of a comment that has one a column and no number, else None."""
    text = line.lstrip("# ").rstrip()
    found = split(text, delimiter) if delimiter and delimiter in text else text.split()
    return found if len(found) == width and not any(number_or_none(n) is not None for n in found) else None


def _units(cells: list[str]) -> list[Any] | None:
    """The units that cells are ("nJy", "[deg]"), None where there is none ("-"); None if they are something else."""
    units = [clean_unit(re.sub(r"^[\[(](.*)[\])]$", r"\1", c)) for c in cells]
    said = [unit is not None or c.strip("[]()").lower() in MISSING for unit, c in zip(units, cells, strict=True)]
    return units if any(unit is not None for unit in units) and all(said) else None


def _sextractor(comments: list[tuple[int, str]], width: int) -> tuple[list[str], list[Any]] | None:
    """(names, units) of SExtractor's ASCII_HEAD, "#   2 FLUX_APER   Flux vector   [count]"; a vector's columns follow it."""
    found: dict[int, tuple[str, str | None]] = {}
    for _, line in comments:
        match = re.match(r"#\s*(\d+)\s+([A-Za-z]\w*)(?:\s.*?)?(?:\[([^\]]+)\])?\s*$", line)
        if match:
            found[int(match[1])] = (match[2], match[3])
    if 1 not in found or max(found) > width:
        return None
    names: list[str] = []
    units: list[Any] = []
    first = 1
    for i in range(1, width + 1):
        first = i if i in found else first
        names.append(found[first][0] + (f"_{i - first + 1}" if i > first else ""))
        units.append(found[first][1])
    return names, units


def _unnamed(rows: list[list[str]]) -> list[str] | None:
    """What two or three columns of numbers without a name are: a spectrum, magnitudes over time, or None.

    Wavelengths go up in steps that are much alike; what is larger than 30,000 and no wavelength is a Julian date or MJD.
    """
    numbers = [[number_or_none(c) for c in row[:2]] for row in rows]
    if len(numbers) < 2 or any(len(row) < 2 or None in row for row in numbers):
        return None
    x, y = np.array(numbers, dtype=float).T
    steps = np.diff(x)
    if x.min() > 30_000:
        return ["time", "mag", "mag_err"] if np.all((y > 5) & (y < 35)) else None
    alike = len(x) >= 10 and bool(np.all(steps > 0)) and steps.max() <= 3 * steps.min()
    wavelengths = x.min() >= 100 or (x.max() < 60 and steps.min() < 0.1)
    return ["wavelength", "flux", "flux_err"] if alike and wavelengths else None
