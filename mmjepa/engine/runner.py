"""Runner with exact resume, safe and atomic checkpoints, and provenance."""

import json
import os
import os.path as osp
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm, is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmjepa.registry import PARAM_SCHEDULERS, RUNNERS
from mmjepa.version import __version__

from .checkpoint import CheckpointError, atomic_save, load_file, load_verified
from .compile import compile_blocks
from .config import RESOLVED_MARK
from .schedules import PhasedScheduler

_RECORDED = (
    'mmengine',
    'torch',
    'numpy',
    'spconv-cu120',
    'spconv-cu126',
    'mmcv',
    'mmdet',
    'mmdet3d',
    'mmsegmentation',
)


def rng_state() -> dict[str, Any]:
    """States of all random generators of this process, as plain tensors and numbers."""
    name, keys, pos, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (transforms of others draw from it)
    version, internal, gauss = random.getstate()
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        numpy=(name, torch.from_numpy(np.asarray(keys, np.int64)), pos, has_gauss, cached),
        python=(version, list(internal), gauss),
    )


def set_rng_state(state: dict[str, Any]) -> None:
    """Undo of :func:`rng_state`."""
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])
    name, keys, pos, has_gauss, cached = state['numpy']
    np.random.set_state(  # noqa: NPY002
        (name, keys.cpu().numpy().astype(np.uint32), pos, has_gauss, cached)
    )
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))


def _git_hash() -> str:
    root = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
    try:
        text = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
            cwd=root,
            text=True,
            capture_output=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
    return text if osp.exists(osp.join(root, '.git')) else 'unknown'


def provenance() -> dict[str, Any]:
    """Versions, git hash, command and hardware of this run."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in _RECORDED:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return dict(
        mmjepa=__version__,
        git=_git_hash(),
        python=sys.version.split()[0],
        packages=packages,
        command=sys.argv,
        device=torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f'cpu ({torch.get_num_threads()} threads)',
    )


def _init_worker(then: Any, worker_id: int) -> None:
    """Let a worker obey SIGTERM from its parent alone.

    Schedulers send it to every process of a job, and a dead worker ends the run before the main
    process has finished its iteration and saved.
    """
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    if then is not None:
        then(worker_id)


def _leave_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@RUNNERS.register_module()
class JEPARunner(Runner):
    """MMEngine's runner where its checkpoints don't fit.

    * checkpoints are loaded completely or not at all, without executing pickled code;
    * they are written atomically and hold the RNG states of all ranks;
    * a resumed run equals an uninterrupted one bit for bit on CPU;
    * the resolved config and ``environment.json`` (versions, git hash) go to the work dir;
    * gloo on machines without CUDA;
    * ``compile=True`` compiles transformer blocks (:func:`.compile.compile_blocks`), not the step.
    """

    _loaded_meta: dict[str, Any] = {}
    _resumed_rng: list[dict] | None = None
    _training_rng: dict | None = None

    def setup_env(self, env_cfg: dict) -> None:
        """As MMEngine; a distributed run without CUDA uses gloo.

        Raises:
            RuntimeError: without CUDA, a launcher other than ``'pytorch'``.
        """
        if (
            self.distributed
            and not torch.cuda.is_available()
            and not torch.distributed.is_initialized()
        ):
            if self.launcher != 'pytorch':
                raise RuntimeError(
                    f'launcher {self.launcher!r} needs CUDA; on CPU use tools/dist_train.sh '
                    '(torchrun, gloo)'
                )
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """As MMEngine; no pinned memory without CUDA, and workers that outlive SIGTERM."""
        if isinstance(dataloader, DataLoader):
            return dataloader
        if dataloader.get('pin_memory') and not torch.cuda.is_available():
            dataloader = dict(dataloader, pin_memory=False)
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
        return loader

    def _build_param_scheduler(self, scheduler: Any, optim_wrapper: Any) -> list:
        """As MMEngine, which takes schedules without ``by_epoch`` for epoch-based ones."""

        def by_iteration(item: Any) -> Any:
            kind = item.get('type') if isinstance(item, dict) else None
            cls = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind
            return (
                dict(item, by_epoch=item.get('by_epoch', False)) if cls is PhasedScheduler else item
            )

        schedulers = scheduler if isinstance(scheduler, (list, tuple)) else [scheduler]
        return super()._build_param_scheduler([by_iteration(s) for s in schedulers], optim_wrapper)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
        """As MMEngine, with accumulated iterations counted in the batch."""
        accumulate = getattr(optim_wrapper, '_accumulative_counts', 1)
        if auto_scale_lr and auto_scale_lr.get('enable'):
            auto_scale_lr = dict(
                auto_scale_lr, base_batch_size=auto_scale_lr['base_batch_size'] / accumulate
            )
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As MMEngine; on CPU without device ids, which DDP refuses there."""
        if (
            self.distributed
            and get_device() == 'cpu'
            and model_wrapper_cfg is None
            and not is_model_wrapper(model)
        ):
            if self.cfg.get('sync_bn'):
                model = convert_sync_batchnorm(model, self.cfg.sync_bn)
            return MMDistributedDataParallel(
                module=model,
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def _maybe_compile(self, target: str) -> None:
        """As MMEngine calls it before the training; whole steps, which it compiles, break up."""
        if self.cfg.get('compile'):
            count = compile_blocks(self.bare_model)
            self.logger.info(f'{count} transformer blocks are compiled: the first step is slow')

    @cached_property
    def cfg_text(self) -> str:
        """The resolved config as text; formatting it takes a third of a second."""
        return self.cfg.pretty_text

    @property
    def bare_model(self) -> nn.Module:
        """The model without its distributed wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    @master_only
    def dump_config(self) -> None:
        """Write the resolved config and the provenance into the work dir."""
        name = osp.basename(self.cfg.filename) if self.cfg.filename else f'{self.timestamp}.py'
        Path(self.work_dir, name).write_text(f'{RESOLVED_MARK}\n{self.cfg_text}', encoding='utf-8')
        text = json.dumps(dict(provenance(), time=self.timestamp), indent=2)
        Path(self.work_dir, 'environment.json').write_text(text + '\n', encoding='utf-8')

    def load_or_resume(self) -> None:
        """Resume or load as configured; an auto-resume passes over unreadable files, saying so."""
        if self._has_loaded:
            return
        if self._resume and self._load_from is None:
            candidate = latest_checkpoint(self.work_dir, self.logger)
            if candidate is None:
                self.logger.info(f'no checkpoint in {self.work_dir}: starting from scratch')
                return
            self.resume(str(candidate))
        else:
            super().load_or_resume()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = True,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006 (MMEngine's signature)
    ) -> dict:
        """Load weights completely or raise; nothing pickled is executed."""
        checkpoint = load_file(filename, map_location=map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_verified(
            self.bare_model, checkpoint, what=type(self.bare_model).__name__, logger=self.logger
        )
        self._loaded_meta = checkpoint.get('meta', {})
        self._has_loaded = True
        self.logger.info(f'loaded checkpoint {filename}')
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Restore weights, optimizer, schedules, position, data order and all RNG states.

        Raises:
            CheckpointError: the file can't be read, or holds no state of a training.
        """
        kwargs.setdefault('map_location', 'cpu')  # not twice on the device
        try:
            super().resume(filename, *args, **kwargs)
        except KeyError as error:
            if error.args[0] not in ('meta', 'epoch', 'iter', 'message_hub'):
                raise
            raise CheckpointError(
                f'{filename} holds no {error.args[0]!r}: weights without the state of a training. '
                'Start from them with --cfg-options load_from=FILE instead of --resume'
            ) from None
        sampler = self.train_dataloader.batch_sampler
        data_seed = self._loaded_meta.get('data_seed')
        if data_seed is not None and data_seed != getattr(sampler, 'seed', data_seed):
            sampler.seed = data_seed
            self.logger.warning(f'the data order stays that of the checkpoint, seed {data_seed}')
        states = self._loaded_meta.get('rng')
        if states is None or len(states) != self.world_size:
            self.logger.warning(
                f'{filename} holds RNG states of {len(states or [])} processes, this run has '
                f'{self.world_size}: the resumed run will not repeat the interrupted one exactly'
            )
        else:
            self._resumed_rng = states

    def restore_rng(self) -> None:
        """Set the RNG states that :meth:`resume` read; called when the loader stands."""
        if self._resumed_rng is not None:
            set_rng_state(self._resumed_rng[self.rank])
            self._resumed_rng = None

    @contextmanager
    def outside_training(self) -> Iterator[None]:
        """For validation and probes: the random numbers they draw don't move the training's.

        A checkpoint that is written meanwhile holds the states of the training.
        """
        outer, self._training_rng = self._training_rng, self._training_rng or rng_state()
        try:
            yield
        finally:
            set_rng_state(self._training_rng)
            self._training_rng = outer

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Write everything that an exact resume needs; every rank must call it.

        Args:
            out_dir: folder.
            filename: name in it.
            file_client_args: unused, MMEngine's signature.
            save_optimizer: include the optimizer.
            save_param_scheduler: include the schedules.
            meta: entries for ``meta``; epoch and iter by default.
            by_epoch: how MMEngine's loops count epoch and iter inside hooks; ours says it itself.
            backend_args: unused, MMEngine's signature.
        """
        # a hook that stops the run here, on any rank, leaves no checkpoint
        self.call_hook('before_save_on_all_ranks')
        rng = all_gather_object(self._training_rng or rng_state())
        accumulated = None
        if save_optimizer and hasattr(self.optim_wrapper, 'accumulated_gradients'):
            accumulated = self.optim_wrapper.accumulated_gradients()
        if not is_main_process():
            return
        done = (self.epoch + 1, self.iter) if by_epoch else (self.epoch, self.iter + 1)
        meta = dict(epoch=done[0], iter=done[1]) | dict(meta or {})
        loop = self.train_loop
        if hasattr(loop, 'completed'):
            meta.update(epoch=loop.completed // loop.epoch_length, iter=loop.completed)
        meta.update(
            data_seed=getattr(self.train_dataloader.batch_sampler, 'seed', None),
            cfg=self.cfg_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y%m%d_%H%M%S'),
            mmengine_version=mmengine.__version__,
            mmjepa_version=__version__,
            method=type(self.bare_model).__name__,
            rng=rng,
        )
        if hasattr(self.train_dataloader.dataset, 'metainfo'):
            meta['dataset_meta'] = self.train_dataloader.dataset.metainfo
        checkpoint: dict[str, Any] = dict(
            meta=meta,
            state_dict=self.bare_model.state_dict(),
            message_hub=self.message_hub.state_dict(),
        )
        if save_optimizer:
            checkpoint['optimizer'] = self.optim_wrapper.state_dict()
            if accumulated is not None:
                checkpoint['optimizer']['accumulated'] = accumulated
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint['param_schedulers'] = [s.state_dict() for s in self.param_schedulers]
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        atomic_save(checkpoint, osp.join(out_dir, filename))


def _is_whole(path: Path) -> bool:
    """Whether every part of a file that torch.save wrote has the checksum it had then."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def latest_checkpoint(work_dir: str, logger: Any = None) -> Path | None:
    """The checkpoint written last among the undamaged ones of a work dir.

    Args:
        work_dir: folder with ``epoch_*.pth`` and ``iter_*.pth``. Its ``last_checkpoint`` says which
            one was written last (modification times don't, in a copied folder), and whether they
            lie somewhere else.
        logger: told about files that can't be read.

    Returns:
        The path, or None where there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints but none can be read: training anew in this folder
            would overwrite them.
    """
    folder, last = Path(work_dir), ''
    pointer = folder / 'last_checkpoint'
    if pointer.is_file():
        written = Path(pointer.read_text().strip())
        last = written.name
        if not (folder / last).is_file() and written.is_file():
            folder = written.parent
    files = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    for path in sorted(files, key=lambda p: (p.name == last, p.stat().st_mtime), reverse=True):
        if _is_whole(path):
            return path
        if logger is not None:
            logger.warning(f'passing over {path}: truncated, damaged or not a checkpoint')
    if files:
        raise CheckpointError(
            f'none of the {len(files)} checkpoints in {folder} can be read; move them away to '
            'start from scratch, or name one with --resume FILE'
        )
    return None


def build_runner(cfg: Config) -> Runner:
    """The runner that a config asks for by ``runner_type``, MMEngine's by default."""
    init_default_scope(cfg.get('default_scope', 'mmjepa'))
    return RUNNERS.build(cfg) if cfg.get('runner_type') else Runner.from_cfg(cfg)
