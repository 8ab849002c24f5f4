"""KITTI AP as MMEngine metric."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmjepa.registry import METRICS

from ..functional.kitti_ap import IoUSets, check_settings, kitti_ap
from .kitti_detections import camera_detections, write_detections
from .kitti_ground_truth import TruthFrame, frames_of_infos, frames_of_labels
from .lidar_predictions import class_names, dataset_classes, read_predictions


@METRICS.register_module()
class KittiAPMetric(BaseMetric):
    """KITTI AP (2D, bird's eye view, 3D) and AOS of a mmdet3d LiDAR detector; needs no CUDA.

    Ground truth comes from mmdet3d's info file or from the label files; a frame is known by the
    name of its sweep (``lidar_path``). Classes are those of the data set.

    Args:
        ann_file: info file of mmdet3d 1.x, e.g. ``data/kitti/kitti_infos_val.pkl``.
        label_dir: instead of ``ann_file``, e.g. ``data/kitti/training/label_2``, with ``calib``
            beside it.
        iou_sets: as in :func:`mmjepa.evaluation.functional.kitti_ap`.
        recall: numbers of recall points, 40 or 11.
        pcd_limit_range: detections whose bottom centre lies outside are dropped; LiDAR frame.
        camera: the labelled one, in the info file.
        format_dir: folder for result files in KITTI's format, one per frame.
        format_only: write them and evaluate nothing (a test split without labels).
        device: where overlaps are computed.
        prefix: of the names of the figures.
        collect_device: as in MMEngine.
        collect_dir: as in MMEngine.

    Raises:
        ValueError: not exactly one of ``ann_file`` and ``label_dir``, or impossible settings.
    """

    default_prefix = 'kitti'

    def __init__(
        self,
        ann_file: str | None = None,
        label_dir: str | None = None,
        iou_sets: IoUSets = ('strict', 'loose'),
        recall: Sequence[int] = (40, 11),
        pcd_limit_range: Sequence[float] = (0, -40, -3, 70.4, 40, 0.0),
        camera: str = 'CAM2',
        format_dir: str | None = None,
        format_only: bool = False,
        device: str = 'cpu',
        prefix: str | None = None,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if (ann_file is None) == (label_dir is None):
            raise ValueError('KittiAPMetric needs one of ann_file and label_dir')
        if format_only and format_dir is None:
            raise ValueError('format_only=True needs format_dir, the folder for the result files')
        if len(pcd_limit_range) != 6:
            raise ValueError(f'pcd_limit_range must be 6 numbers, got {pcd_limit_range}')
        check_settings(iou_sets, recall)
        self.ann_file = ann_file
        self.label_dir = label_dir
        self.iou_sets = iou_sets
        self.recall = tuple(recall)
        self.pcd_limit_range = tuple(pcd_limit_range)
        self.camera = camera
        self.format_dir = format_dir
        self.format_only = format_only
        self.device = device

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the detections of a batch.

        Args:
            data_batch: not used.
            data_samples: with ``pred_instances_3d`` and ``lidar_path``.

        Raises:
            ValueError: one of them is missing or of the wrong kind.
        """
        for sample in data_samples:
            if not sample.get('lidar_path'):
                raise ValueError(
                    'a data sample has no lidar_path, by which KittiAPMetric finds its frame: keep '
                    "'lidar_path' in the meta_keys of Pack3DDetInputs"
                )
            name = Path(sample['lidar_path']).stem
            self.results.append((name, read_predictions(sample, f'frame {name}')))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluates all frames.

        Args:
            results: what :meth:`process` kept, of all ranks.

        Returns:
            Figures as :func:`mmjepa.evaluation.functional.kitti_ap` names them; nothing with
            ``format_only``.

        Raises:
            FileNotFoundError: the info file, a label or a calibration file is missing.
            ValueError: no frame was predicted, or one twice or without ground truth.
        """
        names = [name for name, _ in results]
        frames = self._frames(names)
        detections = []
        for name, predictions in results:
            labels = class_names(self.dataset_meta, predictions.labels, f'frame {name}')
            detections.append(
                camera_detections(predictions, labels, frames[name], self.pcd_limit_range)
            )
        if self.format_dir is not None:
            self._write(names, detections)
        if self.format_only:
            return {}
        result = kitti_ap(
            [self._annotation(name, frames[name]) for name in names],
            detections,
            classes=dataset_classes(self.dataset_meta),
            iou_sets=self.iou_sets,
            recall=self.recall,
            device=self.device,
        )
        print_log(f'KITTI, {len(names)} frames\n{result.table}', logger='current')
        for note in result.notes:
            print_log(note, logger='current', level=logging.WARNING)
        return result.metrics

    def _frames(self, names: list[str]) -> dict[str, TruthFrame]:
        if not names:
            raise ValueError(
                'nothing was predicted: the evaluation data set is empty (see its ann_file, and '
                'ImageSets/val.txt behind it)'
            )
        name, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f'frame {name} was predicted {times} times: the evaluation data set repeats frames'
            )
        if self.label_dir is not None:
            return frames_of_labels(self.label_dir, names)
        assert self.ann_file is not None
        frames = frames_of_infos(self.ann_file, self.camera)
        unknown = [name for name in names if name not in frames]
        if unknown:
            raise ValueError(
                f'{len(unknown)} of {len(names)} predicted frames are not in {self.ann_file}, '
                f'{unknown[0]} first: give the evaluator the ann_file of the evaluation data set'
            )
        if len(names) < len(frames):
            print_log(
                f'{len(names)} of the {len(frames)} frames in {self.ann_file} were predicted; the '
                'figures are of these',
                logger='current',
                level=logging.WARNING,
            )
        return frames

    def _annotation(self, name: str, frame: TruthFrame) -> dict[str, Any]:
        if frame.annotation is None:
            raise ValueError(
                f'{self.ann_file}, frame {name}: no labels (a test split?); use format_only=True '
                'with format_dir to write result files'
            )
        return frame.annotation

    def _write(self, names: list[str], detections: list[dict[str, Any]]) -> None:
        folder = Path(str(self.format_dir))
        folder.mkdir(parents=True, exist_ok=True)
        for name, found in zip(names, detections, strict=True):
            write_detections(found, folder / f'{name}.txt')
        print_log(f'{len(names)} result files in {folder}', logger='current')
