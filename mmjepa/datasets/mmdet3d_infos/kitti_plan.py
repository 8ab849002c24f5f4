"""Which frames of a KITTI object folder can be converted, and how they are split."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..kitti import DEFAULT_IMAGE_HW, KittiObjects

DEFAULT_VAL_FRACTION = 0.2
# what mmdet3d's KITTI info files label, by number
CLASSES = ('Pedestrian', 'Cyclist', 'Car', 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')
_FOLDERS = {'velodyne': '.bin', 'calib': '.txt', 'label_2': '.txt'}


@dataclass
class KittiPlan:
    """The frames to convert.

    Attributes:
        train: numbers, six digits each.
        val: the same.
        test: the same, of ``testing/``; may be empty.
        notes: what is left out or assumed, one sentence each.
    """

    train: list[str]
    val: list[str]
    test: list[str]
    notes: list[str] = field(default_factory=list)

    def write_sets(self, folder: Path) -> None:
        """Writes ``ImageSets/`` below ``folder``."""
        sets = {'train': self.train, 'val': self.val, 'test': self.test}
        sets['trainval'] = self.train + self.val
        (folder / 'ImageSets').mkdir(parents=True)
        for name, frames in sets.items():
            text = ''.join(f'{frame}\n' for frame in frames)
            (folder / 'ImageSets' / f'{name}.txt').write_text(text)


def plan_kitti(root: Path, in_place: bool, val_fraction: float | None) -> KittiPlan:
    """Looks through a KITTI folder.

    In place everything has to be there. Elsewhere, frames that lack sweep, calibration or label
    are left out, lists are made where there are none, and images may be missing.

    Args:
        root: KITTI object folder.
        in_place: whether the info files go to ``root``.
        val_fraction: share of the labelled frames for validation, in place of ``root``'s lists;
            None for the lists, or 0.2 where there are none.

    Raises:
        FileNotFoundError: folders, lists or files are missing.
        ValueError: a split is empty, or a label file cannot be used.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f'--val-fraction must lie between 0 and 1, got {val_fraction}')
    if val_fraction is not None and in_place:
        raise ValueError('--val-fraction makes new image sets, which need a folder: add --out')
    _check_folders(root, in_place)
    frames = _complete(root / 'training', _FOLDERS)
    lists = all(_set_file(root, name).is_file() for name in ('train', 'val'))
    plan = (
        _listed(root, frames, in_place)
        if lists and val_fraction is None
        else _split(root, frames, val_fraction or DEFAULT_VAL_FRACTION)
    )
    plan.test, note = _test_frames(root, in_place)
    plan.notes += [note] if note else []
    if both := set(plan.train) & set(plan.val):
        plan.notes.append(f'{len(both)} frames stand in both train and val: val will flatter')
    plan.notes += _check_images(root, plan, in_place)
    plan.notes.append(check_labels(root, plan.train + plan.val))
    return plan


def check_labels(root: Path, frames: Iterable[str]) -> str:
    """Reads all label files.

    Returns:
        A sentence with the number of objects by class.

    Raises:
        ValueError: a class isn't one of KITTI's, or DontCare isn't last.
    """
    counts: Counter[str] = Counter()
    for frame in frames:
        path = root / 'training' / 'label_2' / f'{frame}.txt'
        names = KittiObjects.from_file(path).names.tolist()
        for line, name in enumerate(names, 1):
            if name not in CLASSES and name != 'DontCare':
                raise ValueError(
                    f'{path}, line {line}: class {name!r} is none of {", ".join(CLASSES)}; write '
                    'one of these, or DontCare to leave the object out of training and evaluation'
                )
        if names != sorted(names, key=lambda name: name == 'DontCare'):
            raise ValueError(
                f"{path}: DontCare stands before other objects, which mmdet3d's converter would "
                'mix up; move the DontCare lines to the end'
            )
        counts.update(names)
    ignored = counts.pop('DontCare', 0)
    found = ', '.join(f'{name} {counts[name]}' for name in CLASSES if counts[name]) or 'none'
    return f'labels: {found}; DontCare {ignored} (areas that are not evaluated, no boxes)'


def _command(root: Path) -> str:
    return f'python tools/create_data.py kitti --root {root} --out ANOTHER_FOLDER'


def _set_file(root: Path, name: str) -> Path:
    return root / 'ImageSets' / f'{name}.txt'


def _check_folders(root: Path, in_place: bool) -> None:
    missing = [name for name in _FOLDERS if not (root / 'training' / name).is_dir()]
    missing = [f'training/{name}' for name in missing]
    needed = len(missing)
    if in_place:
        missing += [] if (root / 'training/image_2').is_dir() else ['training/image_2']
        missing += [
            f'ImageSets/{name}.txt'
            for name in ('train', 'val')
            if not _set_file(root, name).is_file()
        ]
    if not missing:
        return
    remedy = f'{_command(root)} makes image sets and does without images'
    if needed:
        remedy = 'sweeps, calibration and labels are needed; tools/create_data.py sim-kitti '
        remedy += 'makes a stand-in'
        if (root / 'velodyne').is_dir():
            remedy = f'give its parent: --root {root.parent}'
    raise FileNotFoundError(
        f'{root} is no complete KITTI object folder, missing: {", ".join(missing)}; {remedy}'
    )


def _complete(split: Path, folders: dict[str, str]) -> dict[str, list[str]]:
    """Frame -> the files it lacks, for every frame with a sweep."""
    there = {name: {p.stem for p in (split / name).glob(f'*{folders[name]}')} for name in folders}
    for frame in sorted(there['velodyne']):
        if len(frame) != 6 or not frame.isdecimal():
            raise ValueError(
                f'{split}/velodyne/{frame}.bin: KITTI numbers its frames with six digits, and '
                "mmdet3d's converter finds no others; rename the frame's files"
            )
    return {
        frame: [name for name in folders if frame not in there[name]]
        for frame in sorted(set().union(*there.values()))
    }


def _listed(root: Path, frames: dict[str, list[str]], in_place: bool) -> KittiPlan:
    """The root's own lists."""
    notes, chosen = [], {}
    for name in ('train', 'val'):
        listed = _set_file(root, name).read_text().split()
        lacking = {f: frames.get(f, list(_FOLDERS)) for f in listed}
        lacking = {f: missing for f, missing in lacking.items() if missing}
        if lacking:
            first, missing = next(iter(lacking.items()))
            text = f'{len(lacking)} of {len(listed)} frames in ImageSets/{name}.txt lack files '
            text += f'({first}: {", ".join(missing)})'
            if in_place:
                raise FileNotFoundError(f'{root}: {text}; {_command(root)} leaves them out')
            notes.append(f'{text} and are left out')
        chosen[name] = [frame for frame in listed if frame not in lacking]
        if not chosen[name]:
            raise ValueError(
                f'{_set_file(root, name)} is empty or all of its frames lack files; '
                f'{_command(root)} --val-fraction {DEFAULT_VAL_FRACTION} makes new image sets'
            )
    return KittiPlan(chosen['train'], chosen['val'], [], notes)


def _split(root: Path, frames: dict[str, list[str]], fraction: float) -> KittiPlan:
    """Makes lists: the last frames are for validation, since neighbours in time look alike."""
    usable = [frame for frame, missing in frames.items() if not missing]
    if len(usable) < 2:
        raise ValueError(
            f'{root}/training has {len(usable)} frames with sweep, calibration and label; two are '
            'needed, since validation must not be empty'
        )
    count = min(max(round(fraction * len(usable)), 1), len(usable) - 1)
    notes = [
        f'image sets made: of {len(usable)} labelled frames in order of their number, the last '
        f'{count} are val, the others train (--val-fraction {fraction:g})'
    ]
    if left := [frame for frame, missing in frames.items() if missing]:
        notes.append(
            f'{len(left)} frames without sweep, calibration or label are left out '
            f'(first {left[0]}: {", ".join(frames[left[0]])})'
        )
    return KittiPlan(usable[:-count], usable[-count:], [], notes)


def _test_frames(root: Path, in_place: bool) -> tuple[list[str], str]:
    """The frames of ``testing/``, and what to say about them."""
    folders = {name: _FOLDERS[name] for name in ('velodyne', 'calib')}
    frames = _complete(root / 'testing', folders)
    listed = sorted(frames)
    if _set_file(root, 'test').is_file():
        listed = _set_file(root, 'test').read_text().split()
    lacking = [frame for frame in listed if frames.get(frame, list(folders))]
    if lacking and in_place and len(lacking) < len(listed):
        raise FileNotFoundError(
            f'{root}: {len(lacking)} of {len(listed)} frames in ImageSets/test.txt lack files '
            f'(first {lacking[0]}); {_command(root)} leaves them out'
        )
    usable = [frame for frame in listed if frame not in set(lacking)]
    if lacking:
        return usable, f'{len(lacking)} of {len(listed)} test frames lack files and are left out'
    return usable, '' if usable else 'no test frames: the test info file is empty'


def _check_images(root: Path, plan: KittiPlan, in_place: bool) -> list[str]:
    """What to say about frames without image."""
    sets: Sequence[tuple[str, list[str]]] = (
        ('training', plan.train + plan.val),
        ('testing', plan.test),
    )
    notes = []
    for split, frames in sets:
        there = {path.stem for path in (root / split / 'image_2').glob('*.png')}
        lacking = [frame for frame in frames if frame not in there]
        if not lacking:
            continue
        text = f'{len(lacking)} of {len(frames)} {split} frames have no image ({lacking[0]}, ...)'
        if in_place:
            raise FileNotFoundError(f'{root}: {text}; {_command(root)} does without')
        height, width = DEFAULT_IMAGE_HW
        notes.append(
            f"{text}: KITTI's usual {height} x {width} pixels are taken for its view, to which "
            'sweeps are cut; no image is made up, so camera detectors cannot use these frames'
        )
    return notes
