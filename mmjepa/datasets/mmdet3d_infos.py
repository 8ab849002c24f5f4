"""Info files of mmdet3d for a KITTI object folder: its own converter, and a check of the result."""

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .kitti import KittiObjects

SETS = ('train', 'val', 'trainval', 'test')
# what mmdet3d's KITTI info files label, by number; the others become ignored instances
_CLASSES = ('Pedestrian', 'Cyclist', 'Car', 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')


@dataclass(frozen=True)
class ConversionReport:
    """What was written and read back.

    Attributes:
        out: the folder.
        counts: frames by image set.
        instances: 3D boxes in the frame that was read back.
        points: LiDAR points in it.
        sample: its number.
    """

    out: Path
    counts: dict[str, int]
    instances: int
    points: int
    sample: str

    def text(self) -> str:
        """A few lines for the terminal."""
        counts = ', '.join(f'{name} {count}' for name, count in self.counts.items())
        return (
            f'{self.out}: info files agree with ImageSets ({counts})\n'
            f'read back frame {self.sample}: {self.points} points, {self.instances} boxes'
        )


def convert_kitti(root: str | Path, out: str | Path | None = None) -> ConversionReport:
    """Runs mmdet3d 1.4's KITTI converter and verifies what it wrote.

    Args:
        root: KITTI object folder.
        out: where the info files, the reduced sweeps and the object database go, with links to
            ``root``'s files; ``root`` itself when None.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: ``root`` misses a folder or an image set.
        ValueError: an image set is empty.
        ImportError: mmdet3d isn't installed.
        RuntimeError: the converter failed, or its result doesn't agree with the data.
    """
    root = Path(root)
    _check_layout(root)
    script = _converter()
    target = root if out is None else Path(out)
    if target.resolve() != root.resolve():
        _link(root, target)
    environment = dict(os.environ)
    environment['PYTHONPATH'] = os.pathsep.join(
        [str(script.parents[1]), *filter(None, [environment.get('PYTHONPATH')])]
    )
    command = [sys.executable, str(script), 'kitti', '--root-path', str(target.resolve())]
    command += ['--out-dir', str(target.resolve()), '--extra-tag', 'kitti']
    print('running', ' '.join(command), flush=True)
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"mmdet3d's converter failed on {target} (exit {done.returncode}):\n"
            f'{done.stderr[-2000:]}'
        )
    return verify_infos(target)


def verify_infos(folder: str | Path) -> ConversionReport:
    """Checks info files against the folder's image sets, and one frame against its files.

    Args:
        folder: KITTI object folder with mmdet3d's info files.

    Raises:
        RuntimeError: something disagrees; says what.
    """
    folder = Path(folder)
    counts: dict[str, int] = {}
    infos: dict[str, list[dict[str, Any]]] = {}
    for name in SETS:
        path = folder / f'kitti_infos_{name}.pkl'
        if not path.is_file():
            raise RuntimeError(f'{path} is missing: the converter stopped before writing it')
        with path.open('rb') as file:
            infos[name] = pickle.load(file)['data_list']
        wanted = len(_read_set(folder, name))
        if len(infos[name]) != wanted:
            raise RuntimeError(
                f'{path} holds {len(infos[name])} frames, ImageSets/{name}.txt {wanted}'
            )
        counts[name] = wanted
    if not (folder / 'kitti_dbinfos_train.pkl').is_file():
        raise RuntimeError(f'{folder}/kitti_dbinfos_train.pkl is missing')
    info = infos['trainval'][0]
    sample = f'{int(info["sample_idx"]):06d}'
    sweep = folder / 'training' / 'velodyne_reduced' / Path(info['lidar_points']['lidar_path']).name
    if not sweep.is_file():
        raise RuntimeError(f'{sweep} is missing')
    points = np.fromfile(sweep, dtype=np.float32)
    objects = KittiObjects.from_file(folder / 'training' / 'label_2' / f'{sample}.txt')
    boxes = int(np.isin(objects.names, _CLASSES).sum())
    instances = sum(instance['bbox_label_3d'] >= 0 for instance in info['instances'])
    if not points.size or points.size % 4 or instances != boxes:
        raise RuntimeError(
            f'frame {sample}: {instances} boxes in the info file, {boxes} in its label file; '
            f'{points.size} floats in {sweep}'
        )
    return ConversionReport(folder, counts, instances, points.size // 4, sample)


def _converter() -> Path:
    spec = find_spec('mmdet3d')
    if spec is None or spec.origin is None:
        raise ImportError(
            "the KITTI converter comes with mmdet3d 1.4: pip install 'mmjepa[mm3d]' (make test "
            'installs it too). Pre-training needs no info files'
        )
    script = Path(spec.origin).parent / '.mim' / 'tools' / 'create_data.py'
    if not script.is_file():
        raise ImportError(f"{script} is missing: install mmdet3d from its wheel, 'mmdet3d==1.4.0'")
    return script


def _check_layout(root: Path) -> None:
    wanted = [f'training/{name}' for name in ('velodyne', 'label_2', 'calib', 'image_2')]
    missing = [name for name in wanted if not (root / name).is_dir()]
    missing += [
        f'ImageSets/{name}.txt'
        for name in SETS
        if not (root / 'ImageSets' / f'{name}.txt').is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f'{root} is no complete KITTI object folder, missing: {", ".join(missing)}. The image '
            'sets come with detection toolkits; tools/create_data.py sim-kitti makes a stand-in'
        )
    empty = [name for name in SETS if not _read_set(root, name)]
    if empty:
        raise ValueError(
            f"{root}/ImageSets/{empty[0]}.txt is empty: mmdet3d's converter fails on an empty set"
        )


def _read_set(folder: Path, name: str) -> list[str]:
    return (folder / 'ImageSets' / f'{name}.txt').read_text().split()


def _link(root: Path, target: Path) -> None:
    """Links root's folders into target, whose own ones take what the converter adds."""
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f'{target} is not empty: choose another folder for --out')
    (target / 'ImageSets').parent.mkdir(parents=True, exist_ok=True)
    (target / 'ImageSets').symlink_to((root / 'ImageSets').resolve())
    for split in ('training', 'testing'):
        if (root / split).is_dir():
            (target / split).mkdir()
            for folder in sorted((root / split).iterdir()):
                if folder.is_dir() and not folder.name.startswith('velodyne_reduced'):
                    (target / split / folder.name).symlink_to(folder.resolve())
