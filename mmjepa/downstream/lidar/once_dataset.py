"""ONCE for mmdet3d's detectors; importing this file needs mmcv and mmdet3d."""

from typing import Any

import numpy as np
from mmdet3d.datasets import Det3DDataset
from mmdet3d.registry import DATASETS
from mmdet3d.structures import LiDARInstance3DBoxes

from mmjepa.datasets.info_files import read_infos
from mmjepa.datasets.once import CLASSES


@DATASETS.register_module()
class ONCEDataset(Det3DDataset):
    """Labelled frames of ONCE, from the info files of :func:`mmjepa.datasets.once.convert_once`.

    Boxes and points are in the sweep's own LiDAR frame, see :mod:`mmjepa.datasets.once`. In test
    mode, ``eval_ann_info`` holds ``gt_bboxes_3d`` (LiDARInstance3DBoxes), ``gt_labels_3d`` (N,)
    int64 and ``num_lidar_pts`` (N,) of every frame.

    Args:
        data_root: folder of the info files and of ``data/``.
        ann_file: e.g. ``once_infos_train.pkl``.
        data_prefix: folder of the sequences below ``data_root``.
        **kwargs: of ``mmdet3d.datasets.Det3DDataset``, which knows what it takes.

    Raises:
        InfoFileError: the info file is damaged, of mmdet3d 0.x or of another data set.
        ValueError: ``metainfo`` names unknown classes, or there is no frame.
    """

    METAINFO = {
        'classes': CLASSES,
        'palette': [(0, 120, 255), (119, 11, 32), (197, 226, 255), (0, 232, 157), (255, 205, 85)],
    }

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        data_prefix: dict[str, str] | None = None,
        metainfo: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = [name for name in (metainfo or {}).get('classes', ()) if name not in CLASSES]
        if unknown:
            raise ValueError(f'metainfo.classes: {unknown} are none of ONCE: {list(CLASSES)}')
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            data_prefix={'pts': 'data'} if data_prefix is None else data_prefix,
            metainfo=metainfo,
            **kwargs,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """The frames of the info file, paths made absolute."""
        content = read_infos(self.ann_file)
        if content['metainfo'].get('dataset') != 'once':
            found = content['metainfo'].get('dataset')
            raise ValueError(
                f'{self.ann_file} is of data set {found!r}, not of ONCE: give the list that '
                'tools/create_data.py once wrote'
            )
        if not content['data_list']:
            raise ValueError(f'{self.ann_file} holds no frame; convert ONCE again')
        for key, value in content['metainfo'].items():
            self._metainfo.setdefault(key, value)
        return [self.parse_data_info(info) for info in content['data_list']]

    def parse_ann_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Boxes and labels of one frame.

        Args:
            info: the frame; its ``bbox_3d`` are gravity centre, length, width, height, yaw.
        """
        annotations = super().parse_ann_info(info)
        if annotations is None:  # no box in the frame
            annotations = {
                'gt_bboxes_3d': np.zeros((0, 7), dtype=np.float32),
                'gt_labels_3d': np.zeros(0, dtype=np.int64),
                'num_lidar_pts': np.zeros(0, dtype=np.int64),
            }
        annotations = self._remove_dontcare(annotations)
        boxes = LiDARInstance3DBoxes(annotations['gt_bboxes_3d'], origin=(0.5, 0.5, 0.5))
        annotations['gt_bboxes_3d'] = boxes.convert_to(self.box_mode_3d)
        return annotations
