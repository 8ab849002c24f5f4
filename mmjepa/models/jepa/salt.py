"""SALT: V-JEPA's parts in two stages, a teacher that learns from pixels and then its student."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmjepa.registry import MODELS

from .vjepa import VJEPA

_UNMOVED = {
    'target_moves_in_hook': 'the target never moves',
    'hook_required': 'the target never moves',
}


@MODELS.register_module()
class VPixel(VJEPA):
    """SALT's first stage (arXiv 2509.24317): pixels of the hidden tubelets are predicted.

    V-JEPA's masks, encoder and predictor, which is the decoder here; the paper gives no size for
    it. Targets and loss are VideoMAE's.

    Args:
        target: ``policy='data'`` with :class:`PixelTargets`.
        target_norm: targets are normalised already.
        **kwargs: of :class:`VJEPA`.

    Raises:
        ValueError: another policy.
    """

    contract = {'target_no_grad': 'targets are the pixels', **_UNMOVED}

    def __init__(self, *, target: Any, target_norm: Any = 'none', **kwargs: Any):
        super().__init__(target=target, target_norm=target_norm, **kwargs)
        if self.target.policy != 'data':
            raise ValueError(f"VPixel predicts pixels: policy='data', not {self.target.policy!r}")


@MODELS.register_module()
class SALT(VJEPA):
    """Static-teacher Asymmetric Latent Training (arXiv 2509.24317), the student's stage.

    As :class:`VJEPA`, but the teacher is an encoder of its own, as wide as it likes, that was
    trained before (:class:`VPixel`) and never moves.

    Args:
        target: ``policy='frozen'``, with ``encoder`` of the teacher.
        teacher_checkpoint: its training checkpoint, or an exported encoder. None where the
            weights of the whole model are loaded, which hold the teacher (resumed runs, probes).
        teacher_which: ``'online'`` or ``'target'`` encoder of a checkpoint with both; None: the
            format's default.
        teacher_amp: ``'bf16'``: the teacher runs in bfloat16 whatever the student does; None: as
            the student.
        **kwargs: of :class:`VJEPA`.

    Raises:
        ValueError: another policy, or a precision that is neither.
    """

    contract = _UNMOVED

    def __init__(
        self,
        *,
        target: Any,
        teacher_checkpoint: str | Path | None = None,
        teacher_which: str | None = None,
        teacher_amp: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(target=target, **kwargs)
        if self.target.policy != 'frozen' or self.target._is_copy:
            raise ValueError("SALT needs target=dict(policy='frozen', encoder=dict(...))")
        if teacher_amp not in (None, 'bf16'):
            raise ValueError(f"teacher_amp must be None or 'bf16', got {teacher_amp!r}")
        self.teacher_checkpoint, self.teacher_which = teacher_checkpoint, teacher_which
        self.teacher_amp = teacher_amp
        self.has_teacher = False
        self.register_load_state_dict_post_hook(_note_teacher)

    def init_weights(self) -> None:
        """Initialise, then load the teacher, completely or not at all."""
        super().init_weights()
        if self.teacher_checkpoint is not None:
            self.load_teacher(self.teacher_checkpoint)

    def load_teacher(self, path: str | Path) -> None:
        """Fill the teacher from a file.

        Raises:
            FileNotFoundError: no such file.
            CheckpointError: it doesn't hold exactly such an encoder.
        """
        # which need the models
        from mmjepa.adapters import read_encoder
        from mmjepa.engine.checkpoint import CheckpointError, load_verified

        teacher: Any = self.target.encoder
        try:
            found = read_encoder(path, 'auto', which=self.teacher_which)
            _compare(json.loads(found.meta.get('vit', '{}')), teacher)
            load_verified(teacher, dict(state_dict=found.state), what=f'the teacher from {path}')
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'teacher_checkpoint: {error}. Train one with configs/salt/teacher_*.py, or set '
                'it to None where a checkpoint of the student, which holds its teacher, is loaded'
            ) from None
        except (CheckpointError, ValueError) as error:
            raise CheckpointError(
                f'teacher_checkpoint={path} does not fit: {error}. target.encoder must be the '
                "encoder of the teacher's config"
            ) from None
        self.has_teacher = True

    def _targets(self, videos: Tensor) -> Tensor:
        if not self.has_teacher:
            raise RuntimeError(
                'SALT has no teacher: give teacher_checkpoint=FILE, what a run of '
                'configs/salt/teacher_*.py wrote'
            )
        precision: AbstractContextManager = nullcontext()
        if self.teacher_amp is not None:
            precision = torch.autocast(videos.device.type, torch.bfloat16)
        with precision:
            return super()._targets(videos)


def _note_teacher(model: Any, keys: Any) -> None:
    """Weights of the whole model hold the teacher, too."""
    # wherever the model is a part of what is loaded
    if not any('target.' in key for key in keys.missing_keys):
        model.has_teacher = True


def _compare(told: dict[str, Any], teacher: Any) -> None:
    """Raise where the file tells what no tensor does, and the config says something else."""
    heads = (told.get('arch') or [None] * 3)[2]
    for name, theirs, ours in (
        ('heads', heads, teacher.num_heads),
        ('positions', told.get('positions'), teacher.positions),
    ):
        if theirs is not None and theirs != ours:
            raise ValueError(f'{name}: {theirs} in the file, {ours} in the config')
