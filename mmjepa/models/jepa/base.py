"""The contract that every method keeps."""

from abc import abstractmethod
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmjepa.models.losses.functional import cosine_distance
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS


def _build(cfg: Any) -> Any:
    return MODELS.build(cfg) if isinstance(cfg, dict) else cfg


class BaseJEPA(BaseModel):
    """Slots and rules shared by all methods (see ``docs/architecture.md``).

    A subclass implements :meth:`loss` and :meth:`extract_feat`. ``loss()`` is a function of
    weights, inputs and RNG only: it changes no parameter and no buffer but BatchNorm running
    statistics; keys that contain ``loss`` are optimised, all others are detached monitors.

    Args:
        encoder: context encoder, the part that is exported.
        target: target policy; config of :class:`TargetEncoder`.
        predictor: predicts target embeddings from context embeddings.
        mask_generator: what is hidden; None only where the model isn't trained.
        loss: loss module.
        data_preprocessor: moves to the device, normalises, voxelises.
        init_cfg: as in ``mmengine.model.BaseModule``.
        head: on top of the context encoder, not exported; an EMA target gets a copy of it, too.

    Attributes:
        contract: rules of ``tests/contract`` that don't apply, with the reason.
    """

    contract: dict[str, str] = {}

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module | None = None,
        mask_generator: dict | Any | None = None,
        loss: dict | nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
        head: dict | nn.Module | None = None,
    ):
        # built here: MMEngine's base class would look in its own registry only
        super().__init__(data_preprocessor=_build(data_preprocessor), init_cfg=init_cfg)
        self.encoder = _build(encoder)
        self.predictor = _build(predictor)
        self.mask_generator = _build(mask_generator)
        self.loss_module = _build(loss)
        self.target = _build(target)
        self.head = _build(head)
        self.target.attach(self.encoder, self.head)
        # filled by `record` while a monitor asks for it
        self.capture = False
        self.captured: dict[str, Tensor] = {}

    def init_weights(self) -> None:
        """Initialise, then give a copied target the context encoder's weights."""
        super().init_weights()
        self.target.sync(self.encoder, self.head)

    def forward(self, inputs: Any, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """MMEngine's entry.

        Args:
            inputs: what the preprocessor made.
            data_samples: one dict a sample (path, seed), or None.
            mode: ``'loss'`` trains, ``'tensor'`` and ``'predict'`` return features.

        Raises:
            RuntimeError: training without mask generator, or an EMA target that nothing moves.
            ValueError: unknown mode.
        """
        if mode == 'loss':
            if self.target.moves and not self.target.has_updater:
                raise RuntimeError(
                    f'{type(self).__name__} has an EMA target but no TargetUpdateHook moves it: '
                    "add dict(type='TargetUpdateHook') to custom_hooks"
                )
            return self.loss(inputs, data_samples)
        if mode in ('tensor', 'predict'):
            return self.extract_feat(inputs)
        raise ValueError(f"mode must be 'loss', 'tensor' or 'predict', got {mode!r}")

    def require_masks(self) -> Any:
        """The mask generator, or a clear error."""
        if self.mask_generator is None:
            raise RuntimeError(
                f'{type(self).__name__} trains on masked inputs: give it a mask_generator'
            )
        return self.mask_generator

    @abstractmethod
    def loss(self, inputs: Any, data_samples: list | None = None) -> dict[str, Tensor]:
        """Losses and monitors of one batch."""

    @abstractmethod
    def extract_feat(self, inputs: Any) -> Tensor:
        """Features of the whole, unmasked input; what probes, export and pictures use."""

    def record(
        self,
        target: Tensor,
        prediction: Tensor,
        samples: Tensor | None = None,
        max_rows: int = 4096,
    ) -> None:
        """Keep a strided sample of matching target and prediction rows for the monitors.

        Args:
            target: (N, D).
            prediction: (N, D).
            samples: (N,) int64 the rows' samples; None: unknown.
            max_rows: most rows kept.
        """
        if self.capture:
            stride = -(-len(target) // max_rows) or 1
            self.captured = dict(
                target=target[::stride].detach().float(),
                prediction=prediction[::stride].detach().float(),
            )
            if samples is not None:
                self.captured['samples'] = samples[::stride]

    @torch.no_grad()
    def monitor_distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N,) prediction error of rows in the method's own metric; cosine distance by default."""
        return cosine_distance(prediction, target)
