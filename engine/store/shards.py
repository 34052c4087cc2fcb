"""One Zarr v3 array as one shard with one inner chunk an object: written in one go, read one object at a time.

zarr-python writes the metadata (``zarr.json``); the shard itself is written and read here, because going through zarr's
event loop costs about a millisecond an object and array, five times the decompression. What lies on disk is a
standard sharded array (Zarr v3 core, "sharding_indexed" with the index at the end, Blosc chunks), which zarr reads.
A chunk that is all fill value (a mask without a bad pixel, an absent ivar) is left out, as the specification allows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import BITSHUFFLE, Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

_ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that was not written (sharding specification)
_LEVEL = 1  # bitshuffled floats: higher levels of zstd gain 2 % and cost half the speed
_MAX_CHUNK = 2**31 - 1 - 16  # Blosc's own limit, bytes


def write_array(path: Path, items: Iterable[NDArray[Any] | None], count: int, shape: tuple[int, ...], dtype: Any,
                pool: Executor) -> None:
    """Write `count` items of one shape and dtype to `path` (a folder); None or all-zero items take no space.

    Raises ValueError if one item is larger than a Blosc chunk can be (2 GiB).
    """
    dtype = np.dtype(dtype)
    if dtype.itemsize * int(np.prod(shape)) > _MAX_CHUNK:
        raise ValueError(f"an array of shape {shape} is larger than 2 GiB; cut it into smaller images first")
    full = (count, *shape)
    zarr.create_array(path, shape=full, dtype=dtype, chunks=(1, *shape), shards=full, fill_value=0,
                      compressors=BloscCodec(cname="zstd", clevel=_LEVEL, shuffle="bitshuffle", typesize=dtype.itemsize))
    codec = Blosc("zstd", clevel=_LEVEL, shuffle=BITSHUFFLE)
    index = np.full((count, 2), _ABSENT, dtype="<u8")
    shard = path.joinpath("c", *["0"] * len(full))
    shard.parent.mkdir(parents=True)
    offset = 0
    with shard.open("wb") as file:
        for i, data in enumerate(pool.map(lambda item: _encode(codec, item, dtype), items)):
            if data is not None:
                index[i] = offset, len(data)
                file.write(data)
                offset += len(data)
        table = index.tobytes()
        file.write(table + np.array(google_crc32c.value(table), "<u4").tobytes())
        file.flush()
        os.fsync(file.fileno())


def _encode(codec: Blosc, item: NDArray[Any] | None, dtype: np.dtype[Any]) -> bytes | None:
    if item is None:
        return None
    data = np.ascontiguousarray(item, dtype=dtype.newbyteorder("<"))
    if not data.view(np.uint8 if data.ndim else dtype).any():  # by bytes, so that -0.0 is kept as it is
        return None
    return bytes(codec.encode(data))


class ShardReader:
    """Random access to the items of an array that `write_array` made. Opening reads the metadata and the index once."""

    def __init__(self, path: Path) -> None:
        meta = json.loads((path / "zarr.json").read_text())
        shape = meta["shape"]
        codec = meta["codecs"][0]
        if codec["name"] != "sharding_indexed" or meta["chunk_grid"]["configuration"]["chunk_shape"] != shape:
            raise ValueError(f"{path} is not one shard; this sky was changed by another program")
        self.count, self.shape = shape[0], tuple(shape[1:])
        self.dtype = np.dtype(meta["data_type"])
        self._shard = path.joinpath("c", *["0"] * len(shape))
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
        if len(data) != length:
            raise ValueError(f"{self._shard} is cut short; restore it from a copy")
        self._codec.decode(data, out=out.reshape(-1).view(np.uint8))
        return out

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)
