"""Calls mmdet3d 1.4's converters; run as a module, in the folder that holds ``data/<name>``.

mmdet3d's own ``tools/create_data.py`` fails on an empty test set and on frames without image, reads
nuScenes from ``./data/nuscenes`` whatever it is told, and writes over its input. Its functions
are called here one by one instead, so that only what is said below differs.
"""

import argparse
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

from ..info_files import write_plain
from ..kitti import DEFAULT_IMAGE_HW

_SETS = ('train', 'val', 'trainval', 'test')


def kitti(root: str) -> None:
    """Info files, reduced sweeps and database of ``root``, whose ``ImageSets`` may lack tests."""
    from mmengine.registry import init_default_scope
    from tools.dataset_converters import kitti_converter, kitti_data_utils
    from tools.dataset_converters.create_gt_database import create_groundtruth_database
    from tools.dataset_converters.update_infos_to_v2 import update_pkl_infos

    init_default_scope('mmdet3d')
    _allow_missing_images(kitti_data_utils)
    os.mkdir('raw')
    kitti_converter.create_kitti_info_file(root, 'kitti', save_path='raw')
    raw = {name: f'raw/kitti_infos_{name}.pkl' for name in _SETS}
    kitti_converter.create_reduced_point_cloud(
        root, 'kitti', train_info_path=raw['train'], val_info_path=raw['val'],
        test_info_path=raw['test'],
    )  # fmt: skip
    for name in _SETS:
        if _raw(raw[name]):
            update_pkl_infos('kitti', out_dir=root, pkl_path=raw[name])
        else:  # the converter fails on an empty list
            trained = _raw(f'{root}/kitti_infos_train.pkl')
            content = {'metainfo': trained['metainfo'], 'data_list': []}
            write_plain(content, f'{root}/kitti_infos_{name}.pkl')
    create_groundtruth_database(
        'KittiDataset', root, 'kitti', 'kitti_infos_train.pkl', relative_path=False
    )


def nuscenes(root: str, version: str, max_sweeps: int) -> None:
    """Info files and database of ``root``, which must be ``./data/nuscenes``."""
    from mmengine.registry import init_default_scope
    from tools.dataset_converters import nuscenes_converter
    from tools.dataset_converters.create_gt_database import create_groundtruth_database
    from tools.dataset_converters.update_infos_to_v2 import update_pkl_infos

    init_default_scope('mmdet3d')
    nuscenes_converter.create_nuscenes_infos(root, 'nuscenes', version, max_sweeps)
    for name in ('train', 'val'):
        path = f'{root}/nuscenes_infos_{name}.pkl'
        if not _raw(path)['infos']:
            raise SystemExit(
                f'{version} has no sample of a {name} scene: unpack more of the data set'
            )
        update_pkl_infos('nuscenes', out_dir=root, pkl_path=path)
    create_groundtruth_database('NuScenesDataset', root, 'nuscenes', 'nuscenes_infos_train.pkl')


def _raw(path: str):
    with open(path, 'rb') as file:
        return pickle.load(file)  # this process has just written it


def _allow_missing_images(module) -> None:
    """Frames without image get KITTI's usual size; no image is made up."""
    read, find = module.io.imread, module.get_image_path

    def imread(path: str):
        return read(path) if Path(path).exists() else SimpleNamespace(shape=DEFAULT_IMAGE_HW)

    def get_image_path(idx, prefix, training=True, relative_path=True):
        return find(idx, prefix, training, relative_path, exist_check=False)

    module.io = SimpleNamespace(imread=imread)
    module.get_image_path = get_image_path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', choices=('kitti', 'nuscenes'))
    parser.add_argument('--version', default='v1.0-trainval')
    parser.add_argument('--max-sweeps', type=int, default=10)
    args = parser.parse_args()
    root = f'./data/{args.name}'
    if args.name == 'kitti':
        kitti(root)
    else:
        nuscenes(root, args.version, args.max_sweeps)


if __name__ == '__main__':
    main()
