"""Before a detection run is built: sound info files, and a part of the labels."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .config import ConfigError

# The released AD-L-JEPA configs give 50 % of KITTI 160 epochs and 20 % 320, at 80 for all of it;
# their file for 5 % leaves 80, which looks like an omission and gets 320 here.
LONGEST = 4


# what an info file of a data set's class says in its metainfo
_INFO_NAMES = dict(
    KittiDataset='kitti', NuScenesDataset='nuscenes', WaymoDataset='waymo', ONCEDataset='once'
)


def check_info_files(config: Config, splits: Sequence[str] = ('train', 'val')) -> None:
    """Look into the info files of a detection config, in which mmdet3d's own errors are dark.

    Args:
        config: any; data sets without a pickled ``ann_file`` are passed over.
        splits: loaders that the run uses.

    Raises:
        FileNotFoundError: a file isn't there; names the command that makes it.
        InfoFileError: it is damaged, of mmdet3d 0.x, or no info file.
        ConfigError: it is of another data set, lists no frame, or doesn't know the classes.
    """
    from mmjepa.datasets.info_files import read_infos

    seen = set()
    for name in splits:
        loaders = config.get(f'{name}_dataloader') or []
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            dataset = innermost(loader.get('dataset') or {})
            if not isinstance(dataset, dict) or not str(dataset.get('ann_file')).endswith('.pkl'):
                continue
            path = Path(dataset.get('data_root') or '', dataset['ann_file'])
            if path not in seen:
                seen.add(path)
                _check_infos(path, read_infos(path), dataset)


def check_jepa_checkpoint(config: Config) -> None:
    """Read the pre-trained encoder's file before a run touches its work dir.

    Args:
        config: any; ``LoadEncoderHook`` names the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged.
    """
    from mmjepa.adapters.files import load

    for hook in config.get('custom_hooks') or []:
        path = hook.get('checkpoint')
        if path and str(hook['type']).rsplit('.', 1)[-1] == 'LoadEncoderHook':
            try:
                load(path)
            except FileNotFoundError as error:
                raise FileNotFoundError(f'jepa_checkpoint: {error}') from None


def _check_infos(path: Path, infos: dict[str, Any], dataset: dict[str, Any]) -> None:
    wanted = _INFO_NAMES.get(dataset['type'].rsplit('.', 1)[-1])
    found = infos['metainfo'].get('dataset', wanted)
    if wanted and found != wanted:
        raise ConfigError(
            f'{path} is of data set {found!r}, but {dataset["type"]} reads {wanted!r}: name a list '
            'of its own (ann_file), or take another config'
        )
    if not infos['data_list']:
        raise ConfigError(
            f'{path} lists no frame: put some into ImageSets and make the info files anew '
            '(tools/create_data.py)'
        )
    known = infos['metainfo'].get('categories', {})
    classes = (dataset.get('metainfo') or {}).get('classes', ())
    strange = [name for name in classes if known and name not in known]
    if strange:
        raise ConfigError(
            f"{path} labels {', '.join(known)}, not the config's {', '.join(strange)}: set "
            'metainfo.classes of the data sets, or make the info files anew (tools/create_data.py)'
        )
    labels = {
        i.get('bbox_label_3d', -1) for f in infos['data_list'] for i in f.get('instances', ())
    }
    nameless = labels - {-1, *known.values()}
    if known and nameless:
        raise ConfigError(
            f'{path}: label {max(nameless)} is none of its {len(known)} categories; make the info '
            'files anew (tools/create_data.py)'
        )


def innermost(dataset: Any) -> Any:
    """The data set below its wrappers."""
    while isinstance(dataset, dict) and 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def apply_label_fraction(config: Config) -> None:
    """Carry out a config's ``label_fraction``, in place.

    * The first ``floor(fraction * N)`` of the N train frames in the info file, in its order.
    * Objects to paste (``ObjectSample``) come from just these frames.
    * Epochs / fraction, at most four times as many; ``max_iters`` stays as it is.

    Args:
        config: of a fine-tuning; without ``label_fraction`` nothing changes, with 1 only classes
            without objects to paste are left out.

    Raises:
        ConfigError: the fraction isn't in (0, 1], or leaves no frame.
    """
    from mmjepa.datasets.info_files import read_infos
    from mmjepa.datasets.mmdet3d_infos import fraction_count

    fraction = config.get('label_fraction')
    if fraction is None:
        return
    dataset = innermost(config.train_dataloader.dataset)
    infos, every = Path(dataset.data_root, dataset.ann_file), dataset.get('load_interval', 1)
    frames = len(read_infos(infos)['data_list'])
    available = len(range(0, frames, every))
    try:
        count = fraction_count(fraction, available)
    except ValueError as error:
        raise ConfigError(f'label_fraction: {error} ({infos})') from None
    if dataset.get('indices') is not None:
        if dataset.indices != count:
            raise ConfigError(
                f'label_fraction={fraction} means {count} frames, the data set has '
                f'indices={dataset.indices}: leave one of them out'
            )
        return  # the resolved config of a run, in which it has been carried out
    for transform in dataset.pipeline:
        if transform.get('type', '').rsplit('.', 1)[-1] == 'ObjectSample':
            part = None if count == frames else (infos, count, every, Path(config.work_dir))
            _restrict(transform.db_sampler, part)
    if fraction == 1:
        return
    dataset.indices = count
    scaled = ''
    if config.train_cfg.get('max_iters') is None:
        epochs = config.train_cfg.max_epochs
        config.train_cfg.max_epochs = round(epochs * min(1 / fraction, LONGEST))
        scaled = f'; {config.train_cfg.max_epochs} epochs instead of {epochs}'
    print_log(
        f'label_fraction={fraction}: the first {count} of {available} train frames{scaled}',
        logger='current',
    )


def _restrict(sampler: Any, part: tuple[Path, int, int, Path] | None) -> None:
    """Paste objects of a part of the frames; classes without any are left out, saying so.

    mmdet3d's sampler fails on a class whose objects are all too small or too hard.

    Args:
        sampler: config of mmdet3d's ``DataBaseSampler``, changed in place.
        part: info file, number of frames, every how many-th, and the folder for the list where
            that of the data can't be written; None: all frames.
    """
    from mmjepa.datasets.info_files import load_plain
    from mmjepa.datasets.mmdet3d_infos import write_subset

    if part is not None:
        infos, count, every, spare = part
        folder = Path(sampler.info_path).parent
        out = folder if os.access(folder, os.W_OK) else spare
        sampler.info_path = str(write_subset(sampler.info_path, infos, count, out, every).database)
    objects = load_plain(sampler.info_path)
    prepare = sampler.get('prepare', {})
    hard, least = prepare.get('filter_by_difficulty', []), prepare.get('filter_by_min_points', {})
    absent = [
        name
        for name in sampler.sample_groups
        if not any(
            o['num_points_in_gt'] >= least.get(name, 0) and o.get('difficulty') not in hard
            for o in objects.get(name, [])
        )
    ]
    for name in absent:
        del sampler.sample_groups[name]
        least.pop(name, None)
    if absent:
        print_log(
            f'no {", ".join(absent)} to paste in {sampler.info_path}',
            logger='current',
            level=logging.WARNING,
        )
