"""One Zarr v3 array as one shard with one inner chunk an object: written in one go, read one object at a time.

zarr-python writes the metadata (``zarr.json``); the shard itself is written and read here, because going through zarr's
event loop costs about a millisecond an object and array, five times the decompression. What lies on disk is a
standard sharded array (Zarr v3 core, "sharding_indexed" with the index at the end, Blosc chunks, each with its CRC-32C,
so that no damaged pixel passes for a measured one), which zarr reads.
A chunk that is all fill value (a mask without a bad pixel, an absent ivar) is left out, as the specification allows.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import BITSHUFFLE, Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from engine.files import read_json

_ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that was not written (sharding specification)
_LEVEL = 1  # bitshuffled floats: higher levels of zstd gain 2 % and cost half the speed
_MAX_CHUNK = 2**31 - 1 - 16  # Blosc's own limit, bytes


def write_array(path: Path, items: Iterable[NDArray[Any] | None], count: int, shape: tuple[int, ...], dtype: Any,
                pool: Executor) -> None:
    """Write `count` items of one shape and dtype to `path` (a folder); None or all-zero items take no space, equal ones
    the space of one (the index may point to a chunk twice). Bringing it to the disk is the caller's (`files.sync_tree`).

    Raises ValueError if one item is larger than a Blosc chunk can be (2 GiB).
    """
    dtype = np.dtype(dtype)
    if dtype.itemsize * int(np.prod(shape)) > _MAX_CHUNK:
        raise ValueError(f"an array of shape {shape} is larger than 2 GiB; cut it into smaller images first")
    path.mkdir(parents=True)
    shard = path / ".".join(["c", *["0"] * (1 + len(shape))])
    (path / "zarr.json").write_text(json.dumps(_metadata(count, shape, dtype.str)))
    codec = Blosc("zstd", clevel=_LEVEL, shuffle=BITSHUFFLE)
    index = np.full((count, 2), _ABSENT, dtype="<u8")
    written: dict[bytes, int] = {}
    end = 0
    with shard.open("wb") as file:
        for i, (digest, data) in enumerate(pool.map(lambda item: _encode(codec, item, dtype), items)):
            if not data:
                continue
            if digest not in written:
                written[digest] = end
                file.write(data)
                end += len(data)
            index[i] = written[digest], len(data)
        table = index.tobytes()
        file.write(table + google_crc32c.value(table).to_bytes(4, "little"))


def _metadata(count: int, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """The zarr.json of `count` items in one shard."""
    meta = copy.deepcopy(_metadata_of_one(shape, dtype))
    meta["shape"][0] = meta["chunk_grid"]["configuration"]["chunk_shape"][0] = count
    return meta


@lru_cache(maxsize=256)
def _metadata_of_one(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """zarr-python's own metadata; asking it once a kind of array and not once an array saves 5 ms each time."""
    files: dict[str, Any] = {}
    one = (1, *shape)
    zarr.create_array(MemoryStore(files), shape=one, dtype=dtype, chunks=one, shards=one, fill_value=0,
                      chunk_key_encoding={"name": "default", "separator": "."},  # no folder in a folder in a folder
                      compressors=(BloscCodec(cname="zstd", clevel=_LEVEL, shuffle="bitshuffle",
                                              typesize=np.dtype(dtype).itemsize), Crc32cCodec()))
    found: dict[str, Any] = json.loads(files["zarr.json"].to_bytes())
    return found


def _encode(codec: Blosc, item: NDArray[Any] | None, dtype: np.dtype[Any]) -> tuple[bytes, bytes]:
    """A chunk's digest and its bytes, none for what takes no space."""
    if item is None:
        return b"", b""
    raw = np.ascontiguousarray(item, dtype=dtype.newbyteorder("<"))
    if not raw.view(np.uint8 if raw.ndim else dtype).any():  # by bytes, so that -0.0 is kept as it is
        return b"", b""
    data = bytes(codec.encode(raw))
    data += google_crc32c.value(data).to_bytes(4, "little")
    return hashlib.blake2b(data, digest_size=20).digest(), data


class ShardReader:
    """Random access to the items of an array that `write_array` made. Opening reads the metadata and the index once.

    Raises ValueError, with the file's name, for what is damaged or was not written by us; OSError for what cannot be read.
    """

    def __init__(self, path: Path) -> None:
        meta = read_json(path / "zarr.json")
        try:
            shape, codec = meta["shape"], meta["codecs"][0]
            whole = codec["name"] == "sharding_indexed" and meta["chunk_grid"]["configuration"]["chunk_shape"] == shape
            inner = [c["name"] for c in codec["configuration"]["codecs"]] if whole else []
            separator = meta["chunk_key_encoding"]["configuration"]["separator"]
            self.count, self.shape, self.dtype = int(shape[0]), tuple(shape[1:]), np.dtype(meta["data_type"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path / 'zarr.json'} does not describe an array; restore it from a copy") from error
        if inner not in (["bytes", "blosc"], ["bytes", "blosc", "crc32c"]):
            raise ValueError(f"{path} is not one shard of Blosc chunks; this sky was changed by another program")
        self._has_sums = inner[-1] == "crc32c"
        self._shard = path / separator.join(["c", *["0"] * len(shape)])
        self._codec = Blosc()
        self._fd = os.open(self._shard, os.O_RDONLY)
        self._index = self._read_index()

    def _read_index(self) -> NDArray[np.uint64]:
        length = 16 * self.count
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, length + 4, max(size - length - 4, 0))
        table, checksum = tail[:length], tail[length:]
        if len(tail) != length + 4 or google_crc32c.value(table) != int.from_bytes(checksum, "little"):
            raise ValueError(f"{self._shard} is damaged (its index does not match its checksum); restore it from a copy")
        return np.frombuffer(table, "<u8").reshape(self.count, 2)

    def __getitem__(self, i: int) -> NDArray[Any]:
        """Item i, an array of `shape`; zeros where nothing was written."""
        offset, length = self._index[i]
        out = np.zeros(self.shape, self.dtype)
        if offset == _ABSENT:
            return out
        data = os.pread(self._fd, int(length), int(offset))
        try:
            if self._has_sums:
                data, checksum = data[:-4], data[-4:]
                if google_crc32c.value(data) != int.from_bytes(checksum, "little"):
                    raise ValueError("its checksum does not match")
            self._codec.decode(data, out=out.reshape(-1).view(np.uint8))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self._shard} is damaged (item {i}: {error}); restore it from a copy") from error
        return out

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)
