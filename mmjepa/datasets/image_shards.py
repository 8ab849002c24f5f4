"""Images without labels from ``.tar`` shards, read at random places."""

import io
import logging
import os
import tarfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmjepa.registry import DATASETS

from .bad_sample import BadSampleError
from .file_index import PathList, atomic_write, cache_file
from .image_files import IMAGE_SUFFIXES, is_image
from .sample_dataset import Pipeline, SampleDataset, take

_HINT = (
    'Shards are plain tar files of images, as webdataset, img2dataset or '
    '`tar --sort=name -cf train-0000.tar <folder>` write them'
)
_VERSION = 1
_OPEN_SHARDS = 64  # files kept open in a process
_SETTLED_NS = 2_000_000_000


@DATASETS.register_module()
class TarShardDataset(SampleDataset):
    """Images in ``.tar`` shards (webdataset's layout), in the order of shards and members.

    Every member whose name goes on with an image's suffix after its first dot, as webdataset
    reads names, is a sample: ``0001.jpg`` is one, ``0001.cls``, ``0001.json`` and the mask
    ``0001.seg.png`` are not and stay unread. Offsets of the members are looked up once a shard
    and kept in the cache folder, which takes about a minute for ImageNet's 1.28 million; then an
    image is one read at its offset. So the data set has a length and any order: the sampler, the
    seeds and the exact resume are those of folders, and so are the samples.

    Reads are at random places: meant for SSDs and network disks of the kind, not for tapes or
    streams.

    Args:
        data_root: the folder that ``shards`` are looked for in.
        pipeline: transforms, as configs or callables; ``results`` in, ``results`` out.
        shards: glob pattern below ``data_root``, or several, e.g. 'imagenet1k-train-*.tar'. It is
            what tells train from validation, hence has no default.
        on_error: 'raise' or 'skip'; see :class:`SampleDataset`. With 'skip', a truncated shard
            gives the images that are whole.
        indices: the first so many of the images (int), or the ones with these numbers (sequence).
        cache_index: keep the offsets in the cache folder (``$MMJEPA_CACHE``).

    Raises:
        FileNotFoundError: no folder, no shard or no image in them; says what to do.
        BadSampleError: a shard is truncated, compressed or no tar file.
        ValueError: an argument is out of its set.
    """

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        *,
        shards: str | Sequence[str],
        on_error: str = 'raise',
        indices: int | Sequence[int] | None = None,
        cache_index: bool = True,
    ) -> None:
        super().__init__(data_root, pipeline, on_error, _HINT)
        patterns = [shards] if isinstance(shards, str) else list(shards)
        self.shards = self._find_shards(patterns)
        tables = [self._table(path, cache_index) for path in self.shards]
        counts = [len(table.offsets) for table in tables]
        if not sum(counts):
            raise FileNotFoundError(
                f'{self.data_root}: no image ({", ".join(IMAGE_SUFFIXES)} right after the first '
                f'dot of its name) in {len(self.shards)} shards {patterns}. {_HINT}'
            )
        chosen = np.asarray(take(sum(counts), indices, self.noun))
        self._shard = np.repeat(np.arange(len(counts)), counts)[chosen]
        self._offset = np.concatenate([table.offsets for table in tables])[chosen]
        self._size = np.concatenate([table.sizes for table in tables])[chosen]
        names = [name for table in tables for name in table.names]
        self._names = PathList(names[i] for i in chosen)
        self._open: OrderedDict[int, io.FileIO] = OrderedDict()
        self.metainfo = {
            'data_root': str(self.data_root),
            'layout': 'tar_shards',
            'shards': patterns,
            'num_images': len(self),
        }
        print_log(
            f'{type(self).__name__}: {len(self)} images from {len(self.shards)} shards {patterns} '
            f'in {self.data_root}',
            logger='current',
        )

    def __len__(self) -> int:
        return len(self._offset)

    def get_path(self, index: int) -> str:
        """``<shard>/<member>``."""
        return f'{self.shards[self._shard[index]]}/{self._names[index]}'

    def _source(self, index: int) -> dict[str, Any]:
        return {'path': self.get_path(index), 'image_bytes': self._read(index)}

    def _read(self, index: int) -> bytes:
        """The bytes of a member; ``pread`` shares no position with processes forked before."""
        size, path = int(self._size[index]), self.get_path(index)
        try:
            shard = self._shard_file(int(self._shard[index]))
            data = os.pread(shard.fileno(), size, int(self._offset[index]))
        except OSError as error:
            raise BadSampleError(
                path, f'cannot be read ({error.strerror or error})', 'Is the shard still there?'
            ) from None
        if len(data) < size or not size:
            raise BadSampleError(
                path, f'{len(data)} bytes of {size} in the shard', 'Fetch the shard again'
            )
        return data

    def _shard_file(self, number: int) -> io.FileIO:
        file = self._open.pop(number, None) or io.FileIO(self.shards[number])
        self._open[number] = file
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_open': OrderedDict()}

    def _find_shards(self, patterns: Sequence[str]) -> list[str]:
        found: set[Path] = set()
        for pattern in patterns:
            there = {path for path in self.data_root.glob(pattern) if path.is_file()}
            if not there:
                near = sorted(str(p.relative_to(self.data_root)) for p in self._some_tars())
                raise FileNotFoundError(
                    f'{self.data_root}: no shard matches {pattern!r} '
                    f'(there {f"are e.g. {near}" if near else "is no .tar at all"}). {_HINT}'
                )
            found |= there
        return sorted(map(str, found))

    def _some_tars(self) -> list[Path]:
        return sorted([*self.data_root.glob('*.tar'), *self.data_root.glob('*/*.tar')])[:5]

    def _table(self, shard: str, cache: bool) -> 'ShardTable':
        table = shard_table(shard, cache)
        if table.damage:
            if self.on_error == 'raise':
                raise BadSampleError(
                    shard,
                    table.damage,
                    "Fetch the shard again, or set on_error='skip' to use the "
                    f'{len(table.offsets)} images that are whole',
                )
            print_log(
                f'{shard}: {table.damage}; {len(table.offsets)} whole images are used',
                logger='current',
                level=logging.WARNING,
            )
        return table


class ShardTable(NamedTuple):
    """Where the images of a shard lie.

    Attributes:
        names: of the members.
        offsets: (N,) int64, first byte of each.
        sizes: (N,) int64 bytes.
        damage: what is wrong with the shard; empty if it is whole.
    """

    names: PathList
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    damage: str


def is_image_member(name: str) -> bool:
    """Whether webdataset would call a tar member an image: its first suffix says so."""
    base = name.rsplit('/', 1)[-1]
    return base.count('.') == 1 and not base.startswith('.') and is_image(base)


def shard_table(shard: str, cache: bool = True) -> ShardTable:
    """The images of a shard, from the cache or by walking over the headers of its members.

    The cache of a shard holds as long as its size and modification time do.

    Raises:
        FileNotFoundError: no such file.
    """
    path = os.path.realpath(shard)
    stat = os.stat(path)
    file = cache_file('shard', path, suffix='.npz')
    stamp = np.array([_VERSION, stat.st_size, stat.st_mtime_ns], np.int64)
    if cache:
        cached = _read_table(file, stamp)
        if cached is not None:
            return cached
    table = _walk_shard(path, stat.st_size)
    if cache and stat.st_mtime_ns < time.time_ns() - _SETTLED_NS:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            stamp=stamp,
            names=np.frombuffer(
                '\0'.join(table.names).encode('utf-8', 'surrogateescape'), np.uint8
            ),
            offsets=table.offsets,
            sizes=table.sizes,
            damage=np.array(table.damage),
        )
        atomic_write(file, buffer.getvalue())
    return table


def _read_table(file: Path, stamp: NDArray[np.int64]) -> ShardTable | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if not np.array_equal(arrays['stamp'], stamp):
                return None
            text = arrays['names'].tobytes().decode('utf-8', 'surrogateescape')
            names = PathList(text.split('\0') if text else [])
            table = ShardTable(names, arrays['offsets'], arrays['sizes'], str(arrays['damage']))
    except Exception:  # zipfile, numpy and zlib each have their own; a damaged cache: walk
        return None
    return table if len(names) == len(table.offsets) == len(table.sizes) else None


def _walk_shard(path: str, file_size: int) -> ShardTable:
    found: list[tuple[str, int, int]] = []
    damage, end = '', 0
    try:
        with tarfile.open(path, 'r:') as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                end = info.offset_data + info.size
                plain = info.isreg() and not info.issparse() and end <= file_size
                if plain and is_image_member(info.name):
                    found.append((info.name, info.offset_data, info.size))
            end = tar.offset
    except tarfile.ReadError as error:
        damage = f'no tar file, compressed, or truncated ({error})'
    if not damage and not _ends_at(path, end):
        # tarfile takes a header that it cannot read for the end
        damage = f'truncated or damaged: neither a member nor the end mark at byte {end}'
    return ShardTable(
        PathList(name for name, _, _ in found),
        np.array([offset for _, offset, _ in found], np.int64),
        np.array([size for _, _, size in found], np.int64),
        damage,
    )


def _ends_at(path: str, offset: int) -> bool:
    """Whether the block of zeros lies there with which a tar file ends."""
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(512) == bytes(512)
