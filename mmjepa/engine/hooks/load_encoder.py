"""A pre-trained encoder in a model that is fine-tuned, completely or not at all."""

import ast
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmjepa.engine.checkpoint import (
    CheckpointError,
    find_state_dict,
    load_verified,
)
from mmjepa.models import JEPAViT
from mmjepa.registry import HOOKS


@HOOKS.register_module()
class LoadEncoderHook(Hook):
    """Fills a model's encoder from a pre-training checkpoint before the first iteration.

    Takes what pre-training writes as it is, and every format that ``tools/export_checkpoint.py``
    knows. A resumed run keeps the weights of its own checkpoint. A ViT may have another image size,
    patch size or no final norm (:func:`mmjepa.adapters.fit_vit`).

    Args:
        checkpoint: the file; None trains from scratch.
        module: name of the encoder in the model; None: ``middle_encoder`` (SECOND, PV-RCNN),
            ``pts_middle_encoder`` (CenterPoint) or ``backbone`` (a ViT), whichever is there.
        which: ``'online'`` or ``'target'`` encoder of a checkpoint that has both; by default what
            the papers take: online of sweeps, target of images.
        frozen_epochs: epochs in which the encoder keeps its weights and its BatchNorm statistics.
        check_grid: compare voxel size and height of the grid with those of the pre-training,
            where the checkpoint tells them.

    Raises:
        CheckpointError: not every tensor of the encoder was filled, weights that aren't finite, or
            another grid; nothing has been loaded then.
        FileNotFoundError: no such file.
        ValueError: the model has no such module, or ``frozen_epochs`` in a distributed run without
            ``find_unused_parameters``.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        checkpoint: str | None = None,
        module: str | None = None,
        which: str | None = None,
        frozen_epochs: int = 0,
        check_grid: bool = True,
    ):
        if which not in (None, 'online', 'target'):
            raise ValueError(f"which must be 'online' or 'target', got {which!r}")
        self.checkpoint = checkpoint
        self.module = module
        self.which = which
        self.frozen_epochs = frozen_epochs
        self.check_grid = check_grid
        self._encoder: nn.Module | None = None

    def before_train(self, runner: Any) -> None:
        """Load, unless the run is a resumed one."""
        self._encoder = self._find(runner.bare_model)
        if (
            self.frozen_epochs
            and runner.distributed
            and not runner.cfg.get('find_unused_parameters')
        ):
            raise ValueError(
                'frozen_epochs in a distributed run needs find_unused_parameters=True in the config'
            )
        if runner.iter > 0:
            runner.logger.info(f'resumed run: {self.module} keeps the weights of its checkpoint')
        elif self.checkpoint is None:
            start = 'is that of load_from' if runner.cfg.get('load_from') else 'starts from scratch'
            runner.logger.info(f'jepa_checkpoint=None: {self.module} {start}')
        else:
            self._load(runner)

    def before_train_epoch(self, runner: Any) -> None:
        """Freeze or thaw."""
        frozen = runner.epoch < self.frozen_epochs
        if self.frozen_epochs and self._encoder is not None:
            self._encoder.requires_grad_(not frozen)
            if frozen or runner.epoch == self.frozen_epochs:
                runner.logger.info(f'{self.module} is {"frozen" if frozen else "trained from now"}')

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the statistics of a frozen encoder; the loop sets the whole model to train."""
        frozen = runner.epoch < self.frozen_epochs
        if frozen and self._encoder is not None and self._encoder.training:
            self._encoder.eval()

    def _find(self, model: nn.Module) -> nn.Module:
        modules = dict(model.named_modules())
        named = ('middle_encoder', 'pts_middle_encoder') if self.module is None else (self.module,)
        found = [name for name in named if name in modules]
        if not found and self.module is None and isinstance(modules.get('backbone'), JEPAViT):
            found = ['backbone']
        if len(found) != 1:
            near = [name for name in modules if name.endswith(('encoder', 'backbone'))]
            raise ValueError(
                f'{type(model).__name__} has no module {" or ".join(named)} for the pre-trained '
                f'encoder, and no ViT as backbone; there are: {", ".join(near) or "none"}'
            )
        self.module = found[0]
        return modules[self.module]

    def _load(self, runner: Any) -> None:
        assert self.checkpoint is not None
        assert self._encoder is not None
        state, notes = self._read(self.checkpoint, self._encoder, runner)
        for note in notes:
            runner.logger.info(f'{self.checkpoint}: {note}')
        try:
            load_verified(
                self._encoder, dict(state_dict=state), what=str(self.module), logger=runner.logger
            )
        except CheckpointError as error:
            same = 'as many values a point or channels, the same blocks'
            if isinstance(self._encoder, JEPAViT):
                same = 'the same in_channels and positions'
            raise CheckpointError(
                f'jepa_checkpoint={self.checkpoint} does not fit: {error}. Pre-train and fine-tune '
                f'with the same encoder: {same}'
            ) from None

    def _check_grid(self, meta: dict, runner: Any) -> None:
        compared = _compare_grids(meta, runner.cfg, str(self.module), str(self.checkpoint))
        runner.logger.info(
            f'the same in pre-training: {", ".join(compared)}'
            if compared
            else f'{self.checkpoint} does not tell its grid: make sure that it is this one'
        )

    def _read(self, path: str, encoder: nn.Module, runner: Any) -> tuple[dict[str, Any], list[str]]:
        """Weights for the encoder from the file, and what is to be said of them.

        Raises:
            CheckpointError: the file is damaged, of another method, or of another grid.
            FileNotFoundError: there is none.
        """
        # which need the engine's checkpoints
        from mmjepa.adapters import fit_vit, read_encoder
        from mmjepa.adapters.files import load

        try:
            content = load(path)
            if isinstance(encoder, JEPAViT):
                which = self.which or _target_if_there(content)
                return fit_vit(read_encoder(path, 'auto', which=which), encoder)
            _check_method(content, encoder)
            found = read_encoder(path, 'auto', which=self.which)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'jepa_checkpoint: {error}') from None
        except (CheckpointError, ValueError) as error:
            text = str(error)
            if '--' in text:
                text += (
                    ' (options with -- are those of tools/export_checkpoint.py, which converts '
                    'files)'
                )
            raise CheckpointError(
                f'jepa_checkpoint={path} gives no encoder for {self.module}: {text}'
            ) from None
        if self.check_grid:
            self._check_grid(found.meta, runner)
        return found.state, found.notes


def _target_if_there(checkpoint: dict) -> str | None:
    from mmjepa.adapters import ALL_FORMATS, detect_format

    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and meta.get('method') == 'SALT':
        return 'online'  # the target is the teacher
    adapter = ALL_FORMATS[detect_format(checkpoint)]
    place = adapter.which.get('target')
    there = place and any(key.startswith(place) for key in adapter.tensors(checkpoint, 'the file'))
    return 'target' if there else None


def _check_method(checkpoint: dict, encoder: nn.Module) -> None:
    """Raise where a sparse encoder is wanted and nothing in the file looks like one."""
    first = 'conv_input.0.weight'  # as all formats call it
    keys, _ = find_state_dict(checkpoint)
    if first not in encoder.state_dict() or any(key.endswith(first) for key in keys):
        return
    meta = checkpoint.get('meta')
    method = meta.get('method') if isinstance(meta, dict) else None
    raise CheckpointError(
        f'it holds no sparse voxel encoder (method {method or "unknown"}, keys such as '
        f'{", ".join(list(keys)[:3])}). Give the checkpoint of a LiDAR pre-training '
        '(configs/adl_jepa), or jepa_checkpoint=None for training from scratch'
    )


def _grid_of(config: Any, encoder: str) -> dict[str, Any]:
    """What features depend on, as far as a config tells it: voxel size, z range, grid height."""
    model = config.get('model') or {}
    preprocessor = model.get('data_preprocessor') or {}
    voxel = preprocessor.get('voxel_layer') or preprocessor
    shape, box = (model.get(encoder) or {}).get('sparse_shape'), voxel.get('point_cloud_range')
    grid = dict(
        voxel_size=voxel.get('voxel_size'),
        z_range=[box[2], box[5]] if box else None,
        depth=shape[0] if shape else None,
    )
    return {key: value for key, value in grid.items() if value is not None}


def _compare_grids(meta: dict, config: Any, module: str, path: str) -> list[str]:
    """Names of what was compared and found equal."""
    try:
        # the text holds plain values only, and nothing of it is executed
        body = ast.parse(meta.get('cfg') or '').body
        model = next(n.value for n in body if getattr(n.targets[0], 'id', '') == 'model')  # type: ignore[attr-defined]
        pretraining = dict(model=_literal(model))
    except (SyntaxError, StopIteration, ValueError, AttributeError):
        return []
    ours, theirs = _grid_of(config, module), _grid_of(pretraining, 'encoder')
    both = [key for key in ours if key in theirs]
    for key in both:
        if _rounded(ours[key]) != _rounded(theirs[key]):
            remedy = 'voxel_size' if key == 'voxel_size' else 'z in point_cloud_range'
            raise CheckpointError(
                f'{path} was pre-trained with {key} {theirs[key]}, this config has {ours[key]}: '
                f'give both the same {remedy}, or set check_grid=False of LoadEncoderHook'
            )
    return both


def _rounded(value: Any) -> Any:
    return [round(float(v), 6) for v in value] if isinstance(value, (list, tuple)) else value


def _literal(node: ast.expr) -> Any:
    """Value of ``dict(...)`` calls and literals."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict' and not node.args:
        return {str(k.arg): _literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
