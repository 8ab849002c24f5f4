"""Probe an encoder for the class of whole samples (images, videos; others by ``SOURCES``).

Arms x seeds x protocols on a labelled training and test split: on frozen features of it, or with
the encoder fine-tuned. What a probe chooses (k, head, learning rate) is chosen on a held-out part
of the training split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

import mmjepa
from mmjepa.evaluation.progress import Progress, silent

from .feature_cache import FeatureCache, Maker
from .features import (
    choose_encoder,
    depth_of,
    exported_encoder_alone,
    extract_features,
    weights_hash,
    with_layers,
)
from .finetune import finetune_protocol
from .image_splits import image_splits
from .inputs import input_kind
from .labelled import LabelledSplit
from .report import Results, compare, summarise
from .sample_protocols import RUN, Predictions, SampleResult, TrainPart, score
from .sample_settings import SampleProbeSettings
from .video_splits import video_splits

# kind of input -> (config, model, data_root, settings) -> labelled training and test samples
SOURCES: dict[str, Callable[..., list[LabelledSplit]]] = {
    'images': image_splits,
    'videos': video_splits,
}


def _kind(protocol: str) -> str:
    """Of the features that a protocol reads; fine-tuning reads none."""
    return {'attentive': 'tokens', 'finetune': ''}.get(protocol, 'pooled')


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@dataclass
class _Arm:
    """A frozen encoder of one arm and seed, and the features taken with it so far."""

    model: Any
    encoder: str
    weights: str
    features: dict[tuple[str, str], NDArray[np.float16]] = field(default_factory=dict)


class _Probe:
    """State that the arms share."""

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path | None,
        settings: SampleProbeSettings,
        device: str | torch.device,
        data_root: str | Path,
        cache: FeatureCache,
        progress: Progress,
    ) -> None:
        self.cfg, self.checkpoint, self.settings = cfg, checkpoint, settings
        self.device, self.cache, self.progress = torch.device(device), cache, progress
        self.encoders: dict[str, str] = {}
        for seed in settings.seeds:
            path = self._path(seed)
            if path is not None and not Path(path).is_file():
                raise FileNotFoundError(f'no checkpoint file at {path} (seed {seed})')
        self._last: tuple[tuple[str | None, int], _Arm] | None = None
        # built first: a bad checkpoint must show before minutes of reading
        first = self._arm('checkpoint' if 'checkpoint' in self.arms else 'untrained', 0)
        self.layers = self._choices(first.model)
        splits = SOURCES[input_kind(cfg)](cfg, first.model, data_root, settings)
        self.splits = dict(zip(('train', 'test'), splits, strict=True))
        if len(self.splits['train']) < 2:
            raise ValueError(f'{data_root}: a probe needs at least two training samples')
        self.described = {part: split.describe() for part, split in self.splits.items()}

    @property
    def arms(self) -> list[str]:
        """Arms of the settings that there are weights for."""
        return [a for a in self.settings.arms if a != 'checkpoint' or self.checkpoint is not None]

    def _path(self, seed: int) -> str | None:
        path = self.checkpoint
        return None if path is None else str(path).replace('{seed}', str(seed))

    def _choices(self, model: Any) -> tuple[int, ...]:
        layers = self.settings.layers
        if layers is None:
            layers = (1, 4) if depth_of(model.encoder) >= 4 else (1,)
        if max(layers) > 1:
            with_layers(with_layers(model, max(layers)), 1)  # says so if it cannot
        return tuple(sorted(set(layers)))

    def _arm(self, name: str, number: int) -> _Arm:
        """The arm's encoder for the seed of that number; the last one is kept."""
        from mmjepa.apis.inference import init_model

        seed = self.settings.seeds[number]
        path = self._path(seed) if name == 'checkpoint' else None
        key = path, -1 if path else seed
        if self._last is None or self._last[0] != key:
            self._last = None  # its memory goes first
            with _seeded(seed):
                model = init_model(self.cfg, path, self.device)
            encoder = choose_encoder(model, self.settings.which, exported_encoder_alone(path))
            self.encoders[name] = encoder
            self._last = key, _Arm(model, encoder, weights_hash(model))
        return self._last[1]

    def _wanted(self) -> dict[str, int]:
        """Kinds of features that the protocols read, with their numbers of layers."""
        kinds = {_kind(protocol) for protocol in self.settings.protocols} - {''}
        depths = {'pooled': max(self.layers), 'tokens': min(self.layers)}
        return {kind: depths[kind] for kind in sorted(kinds)}

    def _features(self, arm: _Arm, part: str, kind: str, what: str) -> NDArray[np.float16]:
        if (part, kind) not in arm.features:
            split, wanted = self.splits[part], self._wanted()
            precision = 'bfloat16' if self.settings.amp else 'float32'
            descriptions = {
                name: {
                    'version': mmjepa.__version__,
                    'weights': arm.weights,
                    'encoder': self.cfg.model.get('encoder'),
                    'preprocessor': self.cfg.model.get('data_preprocessor'),
                    'layers': layers,
                    'kind': name,
                    'precision': precision,
                    'device': self.device.type,
                    **self.described[part],
                }
                for name, layers in wanted.items()
            }

            def compute(makers: dict[str, Maker]) -> dict[str, NDArray[np.float16]]:
                loader = self.cfg.get('train_dataloader') or {}
                return extract_features(
                    arm.model,
                    split.loader(loader, self.settings.batch_size),
                    len(split),
                    {name: wanted[name] for name in makers},
                    makers,
                    self.settings.amp,
                    self.progress,
                    f'{what}: {part} features',
                    split.views,
                )

            for name, found in self.cache.get(descriptions, len(split), compute).items():
                arm.features[part, name] = found
        return arm.features[part, kind]

    def _labels(self, part: str) -> Tensor:
        return torch.from_numpy(self.splits[part].labels).to(self.device)

    def _finetune(self, arm: _Arm, seed: int, progress: Progress) -> Predictions:
        settings = self.settings.finetune
        if self.settings.batch_size:
            settings = replace(settings, batch_size=self.settings.batch_size)
        loading = self.cfg.get('train_dataloader') or {}
        train, test = self.splits['train'], self.splits['test']
        with _seeded(seed):
            return finetune_protocol(
                arm.model, train, test, settings, seed, loading, self.settings.amp, progress
            )

    def _run(self, arm: _Arm, protocol: str, seed: int, what: str) -> SampleResult:
        def progress(stage: str, done: int, total: int) -> None:
            self.progress(f'{what}: {stage}', done, total)

        if protocol == 'finetune':
            found = self._finetune(arm, seed, progress)
        else:
            found = self._frozen(arm, protocol, seed, what, progress)
        return score(found, self._labels('test'), len(self.splits['train'].classes))

    def _frozen(
        self, arm: _Arm, protocol: str, seed: int, what: str, progress: Progress
    ) -> Predictions:
        kind = _kind(protocol)
        train, test = (self._features(arm, part, kind, what) for part in ('train', 'test'))
        channels = train.shape[-1] // self._wanted()[kind]
        feats: list[Any] = [train, test]
        if kind == 'pooled':
            feats = [torch.from_numpy(np.array(x)).to(self.device) for x in feats]
        heads = getattr(arm.model.encoder, 'num_heads', 1)
        classes = len(self.splits['train'].classes)
        part = TrainPart(
            feats[0],
            self._labels('train'),
            classes,
            channels,
            self.layers,
            heads,
            self.settings.amp,
        )
        return RUN[protocol](part, feats[1], self.settings.protocol, seed, progress)

    def run(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Protocol -> arm -> summary over seeds."""
        table: dict[str, dict[str, list[tuple[int, SampleResult]]]] = {
            p: {a: [] for a in self.arms} for p in self.settings.protocols
        }
        # the checkpoint's model is there already
        for name in sorted(self.arms):
            for number, seed in enumerate(self.settings.seeds):
                arm, what = self._arm(name, number), f'{name} (seed {seed})'
                for protocol in self.settings.protocols:
                    result = self._run(arm, protocol, seed, what)
                    table[protocol][name].append((seed, result))
        return {p: {a: summarise(r) for a, r in by.items()} for p, by in table.items()}

    def describe(self, arms: Sequence[str], data_root: str | Path) -> Results:
        """What the results are of."""
        counts = np.bincount(self.splits['test'].labels)
        return {
            'kind': self.splits['train'].kind,
            'checkpoint': None if self.checkpoint is None else str(self.checkpoint),
            'config': self.cfg.filename,
            'data_root': str(data_root),
            'classes': self.splits['train'].classes,
            'seeds': list(self.settings.seeds),
            'arms': list(arms),
            'encoders': self.encoders,
            'layers': list(self.layers),
            'splits': {part: split.name for part, split in self.splits.items()},
            'samples': {part: len(split) for part, split in self.splits.items()},
            'chance': float(counts.max() / counts.sum()),
            'transform': self.described['train'].get('transform'),
            'precision': 'bfloat16' if self.settings.amp else 'float32',
            'settings': asdict(self.settings),
        }


def _warn_pretrained_on_test(cfg: Config, data_root: str | Path, test: str) -> bool:
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    root, split = dataset.get('data_root'), dataset.get('split')
    if root is None or (split is not None and split != test):
        return False
    folder, tested = Path(root).resolve(), Path(data_root).resolve()
    if 'sources' in dataset:
        lists = dataset['sources']
        lists = [lists] if lists is None or isinstance(lists, str | Mapping) else lists
        names = [one['index'] if isinstance(one, Mapping) else one for one in lists]
        seen = any(
            name is None or (folder / name).resolve().with_suffix('') == tested / test
            for name in names
        )
    elif split is None and (tested / test).is_relative_to(folder):
        seen = True
    else:
        seen = split is not None and folder == tested
    if seen:
        print_log(
            f'the test split {test!r} was also read in pre-training; the checkpoint arm has an '
            'advantage that the untrained one lacks',
            'current',
            level=30,
        )
    return seen


def probe_samples(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    settings: SampleProbeSettings | None = None,
    device: str | torch.device = 'cpu',
    cfg_options: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress = silent,
) -> Results:
    """Probe a pre-trained encoder, beside an untrained one, for classes of whole samples.

    Args:
        config: Pre-training config (path, or loaded).
        checkpoint: Weights of a training, or an exported encoder; None leaves the untrained arm.
            ``{seed}`` in the path is filled in for each seed: one pre-training run for each.
        settings: What is compared, and how.
        device: For the encoder and the protocols.
        cfg_options: Overrides of the config.
        data_root: Folder of the labelled splits; the config's ``data_root`` by default.
        cache_dir: Where features are kept; None keeps none.
        progress: Called with (what, done, total).

    Returns:
        JSON-ready dict. ``['protocols'][protocol][arm]`` holds ``mean`` (top-1), ``std`` and
        ``per_class`` over seeds and the single ``runs`` with what was chosen;
        ``['comparison'][protocol]`` the gain over the untrained encoder; ``['cache']`` how many
        feature files were found and made.

    Raises:
        FileNotFoundError: If a split or the checkpoint is missing.
        CheckpointError: If the checkpoint doesn't fit.
        ValueError: If data, options or features cannot be probed.

    Source: the frozen evaluations of arXiv 2301.08243 (appendix A.2), 2404.08471 and 2506.09985.
    """
    from mmjepa.apis.inference import resolve_config

    settings = settings or SampleProbeSettings()
    cfg = resolve_config(config, cfg_options)
    if checkpoint is None and 'untrained' not in settings.arms:
        raise ValueError(f'the arms {", ".join(settings.arms)} need a checkpoint; none was given')
    kind = input_kind(cfg)
    if kind not in SOURCES:
        raise ValueError(f'{kind} have a probe of their own: probe_bev_cells')
    if kind != 'images' and 'finetune' in settings.protocols:
        raise ValueError(f'the protocol finetune is for images; the config reads {kind}')
    if kind == 'images' and (settings.clips, settings.views) != (1, 1):
        raise ValueError('clips and views are for videos; the config reads images')
    root = data_root if data_root is not None else cfg.get('data_root')
    if root is None:
        raise ValueError('the config has no data_root; give one with labelled splits')
    cache = FeatureCache(cache_dir)
    probe = _Probe(cfg, checkpoint, settings, device, root, cache, progress)
    protocols = probe.run()
    results = probe.describe(probe.arms, root)
    results['test_in_pretraining'] = _warn_pretrained_on_test(cfg, root, probe.splits['test'].name)
    results['cache'] = {
        'folder': None if cache_dir is None else str(cache_dir),
        'hits': cache.hits,
        'misses': cache.misses,
    }
    results['protocols'] = protocols
    results['comparison'] = {p: compare(a) for p, a in protocols.items()}
    return results
