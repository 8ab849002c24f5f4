"""Info files of mmdet3d for Waymo: made in an environment of their own, checked here."""

from pathlib import Path

from .verify import (
    ConversionReport,
    check_count,
    check_database,
    check_infos,
    check_not_empty,
    check_sweeps,
    count_holding,
    first_labelled,
    instance_boxes,
    note_missing_classes,
    read_points_back,
)

CLASSES = ('Car', 'Pedestrian', 'Cyclist')
_SETS = ('train', 'val')
_COMMANDS = """\
Waymo's own package pins Python 3.8 and TensorFlow 2.6, so mmdet3d's converter runs in an
environment of its own (names and versions as mmdet3d 1.4 asks for them; not run by this toolkit):

  conda create -n waymo python=3.8 && conda activate waymo
  pip install torch==1.13.1 openmim 'setuptools<81'
  mim install mmengine==0.10.7 mmcv==2.1.0 mmdet==3.3.0
  pip install mmdet3d==1.4.0 waymo-open-dataset-tf-2-6-0
  cd {tools}
  PYTHONPATH=. python tools/create_data.py waymo --root-path {root} --out-dir {out} \\
      --extra-tag waymo --version v1.4 --workers 16

with the .tfrecord files in {root}/waymo_format/{{training,validation,testing,
testing_3d_camera_only_detection}}/. Then, here:

  python tools/create_data.py waymo --root {out} --verify-only"""


def waymo_commands(root: str | Path, out: str | Path | None = None) -> str:
    """The commands that make Waymo's info files, for the terminal.

    Args:
        root: folder with ``waymo_format/``.
        out: where ``kitti_format/`` goes; ``root`` when None.
    """
    root = Path(root).absolute()
    out = root if out is None else Path(out).absolute()
    tools = '$(python -c "import mmdet3d, os; print(os.path.dirname(mmdet3d.__file__))")/.mim'
    return _COMMANDS.format(root=root, out=out, tools=tools)


def verify_waymo(folder: str | Path) -> ConversionReport:
    """Checks info files against the image sets (where they are) and one frame against its sweep.

    Args:
        folder: ``kitti_format`` as mmdet3d's converter makes it, or the folder that holds it.

    Raises:
        FileNotFoundError: there are no info files.
        RuntimeError: something is missing or disagrees; says what.
        InfoFileError: an info file is damaged or of mmdet3d 0.x.
    """
    folder = Path(folder)
    if (folder / 'kitti_format').is_dir():
        folder = folder / 'kitti_format'
    if not any(folder.glob('waymo_infos_*.pkl')):
        raise FileNotFoundError(
            f'{folder} has no waymo_infos_*.pkl, and this toolkit does not make them; run '
            'the converter first: tools/create_data.py waymo without --verify-only prints how'
        )
    infos = {name: check_infos(folder, 'waymo', name) for name in _SETS}
    sweeps = folder / 'training' / 'velodyne'  # of both sets
    notes = []
    for name, frames in infos.items():
        path = folder / f'waymo_infos_{name}.pkl'
        check_not_empty(path, frames)
        check_sweeps(sweeps, frames)
        # the converter lists images: empty lists where they were not saved
        listed = folder / 'ImageSets' / f'{name}.txt'
        if listed.is_file() and listed.stat().st_size:
            wanted = len(listed.read_text().split())
            check_count(path, frames, wanted, f'ImageSets/{name}.txt')
        else:
            notes.append(f'no ImageSets/{name}.txt to compare the number of frames with')
    objects = check_database(folder, 'waymo', len(infos['train']), dim=6)
    info = infos['train'][first_labelled(infos['train'])]
    sweep = sweeps / info['lidar_points']['lidar_path']
    points = read_points_back(sweep, 6)
    boxes = instance_boxes(info['instances'])
    boxes[:, 2] += boxes[:, 5] / 2  # Waymo's info files hold the bottom centre
    holding = count_holding(sweep, points, boxes)
    counts = {name: len(frames) for name, frames in infos.items()}
    notes += note_missing_classes(objects, CLASSES)
    return ConversionReport(
        folder, counts, sweep.name, len(points), len(boxes), holding, objects, notes
    )
