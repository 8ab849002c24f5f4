"""Ground-truth databases of a part of the training frames, for fine-tuning on few labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..info_files import load_plain, read_infos, write_plain, write_whole


@dataclass(frozen=True)
class SubsetReport:
    """What a subset holds.

    Attributes:
        database: the list of its objects.
        frame_list: text file with its frames.
        frames: how many there are.
        available: how many the info file has.
        objects: objects by class.
    """

    database: Path
    frame_list: Path
    frames: int
    available: int
    objects: dict[str, int]

    def text(self) -> str:
        """A few lines for the terminal."""
        objects = ', '.join(f'{name} {count}' for name, count in self.objects.items())
        lines = [
            f'{self.database}: objects of {self.frames} of {self.available} frames ({objects})',
            f'{self.frame_list}: these frames',
        ]
        if missing := [name for name, count in self.objects.items() if not count]:
            lines.append(
                f'note: no {", ".join(missing)} among them: ObjectSample fails until the class is '
                "out of its config's sample_groups and prepare"
            )
        return '\n'.join(lines)


def fraction_count(fraction: float | str, available: int) -> int:
    """``floor(fraction * available)``, exact in decimals: 5, 20, 50 % of 3712: 185, 742, 1856.

    Raises:
        ValueError: the fraction isn't in (0, 1], or leaves no frame.
    """
    try:
        exact = Fraction(str(fraction))
    except ValueError:
        raise ValueError(f'fraction must be a number, got {fraction!r}') from None
    if not 0 < exact <= 1:
        raise ValueError(f'fraction must lie in (0, 1], got {fraction}')
    count = exact.numerator * available // exact.denominator
    if not count:
        raise ValueError(f'fraction {fraction} leaves none of {available} frames')
    return count


def subset_database(
    dbinfos: str | Path,
    infos: str | Path,
    count: int,
    out: str | Path | None = None,
    every: int = 1,
) -> Path:
    """Writes the list of objects of the first ``count`` training frames.

    Args:
        dbinfos: the whole list, e.g. ``kitti_dbinfos_train.pkl``; its entries' ``image_idx`` is the
            frame's place in ``infos``, as mmdet3d 1.x and :func:`.write_gt_database` write it.
        infos: the training frames, e.g. ``kitti_infos_train.pkl``.
        count: frames to take, in the info file's order.
        out: folder for the list; that of ``dbinfos`` when None. Objects' paths stay relative to the
            data set's folder.
        every: take every n-th frame first, like ``load_interval`` of mmdet3d's WaymoDataset.

    Returns:
        The list, ``<dbinfos>_first<count>.pkl``; its frames' names stand in
        ``<dbinfos>_first<count>_frames.txt``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: ``count`` is out of range, or the two files don't belong together.
    """
    return write_subset(dbinfos, infos, count, out, every).database


def write_subset(
    dbinfos: str | Path,
    infos: str | Path,
    count: int,
    out: str | Path | None = None,
    every: int = 1,
) -> SubsetReport:
    """Like :func:`subset_database`; returns what the subset holds."""
    dbinfos = Path(dbinfos)
    frames = read_infos(infos)['data_list']
    if every < 1:
        raise ValueError(f'every must be at least 1, got {every}')
    places = range(0, len(frames), every)
    if not 1 <= count <= len(places):
        raise ValueError(f'count must lie in 1..{len(places)}, the frames of {infos}; got {count}')
    chosen = set(places[:count])
    content = load_plain(dbinfos)
    _check_pair(dbinfos, infos, content, frames)
    part = {
        name: [entry for entry in entries if entry['image_idx'] in chosen]
        for name, entries in content.items()
    }
    name = f'{dbinfos.stem}{f"_every{every}" if every > 1 else ""}_first{count}'
    folder = dbinfos.parent if out is None else Path(out)
    database, listing = folder / f'{name}.pkl', folder / f'{name}_frames.txt'
    write_plain(part, database)
    names = [_frame_name(frames[place]) for place in places[:count]]
    write_whole(''.join(f'{frame}\n' for frame in names).encode(), listing)
    objects = {name: len(entries) for name, entries in load_plain(database).items()}
    if objects != {name: len(entries) for name, entries in part.items()}:
        raise RuntimeError(f'{database} does not read back as it was written; is the disk full?')
    return SubsetReport(database, listing, count, len(frames), objects)


def find_database(root: str | Path, name: str | None = None) -> tuple[Path, Path]:
    """A data set's (``dbinfos``, ``infos``) files for training.

    Args:
        root: folder of the info files.
        name: of the data set; the only one in the folder when None.

    Raises:
        FileNotFoundError: there is none, or more than one.
    """
    root = Path(root)
    found = sorted(root.glob(f'{name or "*"}_dbinfos_train.pkl'))
    if len(found) != 1:
        what = ', '.join(path.name for path in found) or 'none'
        raise FileNotFoundError(
            f'{root}: expected one {name or "*"}_dbinfos_train.pkl, found {what}; '
            'tools/create_data.py kitti|nuscenes|waymo|once makes it, --name picks one'
        )
    return found[0], root / found[0].name.replace('_dbinfos_', '_infos_')


def _check_pair(
    dbinfos: Path, infos: str | Path, content: Any, frames: list[dict[str, Any]]
) -> None:
    """Objects must come from these frames: right places, and no more of them than boxes."""
    if not isinstance(content, dict):
        raise ValueError(f'{dbinfos} holds a {type(content).__name__}, not objects by class')
    counts = [0] * len(frames)
    for entries in content.values():
        for entry in entries:
            place = entry['image_idx']
            if not 0 <= place < len(frames):
                raise ValueError(
                    f'{dbinfos}: frame {place} of an object is none of the {len(frames)} in '
                    f'{infos}, so the two are of different conversions; convert again'
                )
            counts[place] += 1
    for place, (count, frame) in enumerate(zip(counts, frames, strict=True)):
        if count > len(frame.get('instances', [])):
            raise ValueError(
                f'{dbinfos} has {count} objects of frame {place}, {infos} only '
                f'{len(frame.get("instances", []))}; convert again'
            )


def _frame_name(info: Mapping[str, Any]) -> str:
    return Path(info['lidar_points']['lidar_path']).name.removesuffix('.bin').removesuffix('.pcd')
