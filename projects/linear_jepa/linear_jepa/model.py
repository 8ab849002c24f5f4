"""Deep linear JEPA, and as its reconstruction twin a deep linear MAE: two configs of one method."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmjepa.models.jepa.base import BaseJEPA
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .measure import product

DTYPES = {'float64': torch.float64, 'float32': torch.float32}


@MODELS.register_module()
class DeepLinear(nn.Module):
    """Square linear layers without bias; :class:`LinearJEPA` sets where they start.

    Args:
        channels: d.
        depth: layers.
        slope: of a leaky ReLU between layers; 1 is linear, anything else leaves the theory.
        dtype: ``'float64'`` or ``'float32'``.

    Raises:
        ValueError: no layer, or an unknown dtype.
    """

    def __init__(self, channels: int, depth: int = 1, slope: float = 1.0, dtype: str = 'float64'):
        super().__init__()
        if channels < 1 or depth < 1:
            raise ValueError(f'channels and depth must be positive, got {channels} and {depth}')
        if dtype not in DTYPES:
            raise ValueError(f'dtype must be one of {tuple(DTYPES)}, got {dtype!r}')
        self.out_channels = channels
        self.slope = slope
        self.layers = nn.ModuleList(
            nn.Linear(channels, channels, bias=False, dtype=DTYPES[dtype]) for _ in range(depth)
        )

    @property
    def weights(self) -> list[Tensor]:
        """Detached matrices (d, d), the first layer first."""
        return [weight.detach() for weight in self.parameters()]

    @torch.no_grad()
    def set_weights(self, weights: Sequence[Tensor]) -> None:
        """Take these matrices, the first layer's first."""
        for parameter, weight in zip(self.parameters(), weights, strict=True):
            parameter.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        for i, layer in enumerate(self.layers):
            if i and self.slope != 1:
                x = nn.functional.leaky_relu(x, self.slope)
            x = layer(x)
        return x


class ViewMasks(NamedTuple):
    """Columns of a pair (x, y): ``context`` is seen, ``targets`` is hidden."""

    context: slice
    targets: slice


@MODELS.register_module()
class SecondViewMaskGenerator:
    """Of each pair of views the second one is hidden.

    Args:
        channels: d of each view.
    """

    def __init__(self, channels: int):
        if channels < 1:
            raise ValueError(f'channels must be positive, got {channels}')
        self.channels = channels

    def __call__(self, pairs: Tensor) -> ViewMasks:
        """Of pairs (B, 2d).

        Raises:
            ValueError: the pairs have another width.
        """
        if pairs.shape[1] != 2 * self.channels:
            raise ValueError(
                f'pairs of two views of {self.channels} channels have {2 * self.channels} columns, '
                f'got {pairs.shape[1]}: model and process differ in their number of features'
            )
        return ViewMasks(slice(0, self.channels), slice(self.channels, None))


@MODELS.register_module()
class HalfSquaredError(nn.Module):
    """1/2 |prediction - target|^2: summed over features, mean over samples, in their own dtype.

    Another factor would be another learning rate, hence another clock than the theory's.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Two (B, d) -> ``loss_prediction``."""
        return dict(loss_prediction=0.5 * (prediction - target).square().sum(-1).mean())


@MODELS.register_module()
class LinearJEPA(BaseJEPA):
    """How JEPA Avoids Noisy Features: deep linear self-distillation (arXiv 2407.03475).

    A linear predictor V guesses from W x, a product W of linear layers, what the target makes of
    the other view y: W y without gradient (``policy='stop_grad'``; JEPA) or y itself
    (``policy='data'`` with ``torch.nn.Identity``; MAE, whose V is the decoder).

    Deviation known: the paper's body wasn't available. Its balanced small start, every layer and V
    epsilon^(1/L) times an orthogonal matrix, is the default; V is the one that keeps features
    apart.

    Args:
        encoder: :class:`DeepLinear`.
        target: any policy. 'ema' lags behind, 'online_grad' collapses.
        predictor: :class:`DeepLinear`, of one layer in the paper.
        mask_generator: :class:`SecondViewMaskGenerator`.
        loss: :class:`HalfSquaredError`.
        epsilon: amplitude of each feature in the encoder at the start.
        layer_init: ``'orthogonal'``; ``'identity'``; ``'gaussian'``, which isn't balanced.
        predictor_init: ``'aligned'``: the identity for encoder targets, the rotation that undoes
            the encoder's for a data target; ``'identity'``; ``'orthogonal'``: any rotation or
            reflection, which can lose features; ``'gaussian'``.
        predictor_scale: of each layer of the predictor; None: epsilon^(1/L), as in the encoder.
        data_preprocessor: ``JEPAPreprocessor``.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        ValueError: unknown initialisation, or epsilon that isn't positive.
    """

    contract = {
        'keep_ids': 'a pair of views has no tokens',
        'label_free': 'pairs of views have no labels',
        'round_trip': 'no downstream model takes a linear encoder, so adapters know no such family',
    }

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        mask_generator: dict | Any | None = None,
        loss: dict | nn.Module | None = None,
        epsilon: float = 1e-2,
        layer_init: Literal['orthogonal', 'identity', 'gaussian'] = 'orthogonal',
        predictor_init: Literal['aligned', 'identity', 'orthogonal', 'gaussian'] = 'aligned',
        predictor_scale: float | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(
            encoder, target, predictor, mask_generator, loss, data_preprocessor, init_cfg
        )
        if epsilon <= 0:
            raise ValueError(f'epsilon must be positive, got {epsilon}')
        for name, value, allowed in (
            ('layer_init', layer_init, ('orthogonal', 'identity', 'gaussian')),
            (
                'predictor_init',
                predictor_init,
                ('aligned', 'identity', 'orthogonal', 'gaussian'),
            ),
        ):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        self.epsilon = epsilon
        self.layer_init = layer_init
        self.predictor_init = predictor_init
        self.scale = epsilon ** (1 / len(self.encoder.layers))
        self.predictor_scale = self.scale if predictor_scale is None else predictor_scale
        first = self.encoder.layers[0].weight
        # the encoder's rotation at the start, in which its amplitudes are read
        self.register_buffer('frame', torch.eye(len(first), dtype=first.dtype))
        self._start()

    @property
    def objective(self) -> Literal['jepa', 'mae']:
        """Which of the two theories holds."""
        return 'mae' if self.target.policy == 'data' else 'jepa'

    def _draw(self, kind: str) -> Tensor:
        """(d, d) of scale 1, from torch's global generator."""
        size, device = len(self.frame), self.frame.device
        if kind == 'identity':
            return torch.eye(size, dtype=self.frame.dtype, device=device)
        normal = torch.randn(size, size, dtype=self.frame.dtype, device=device)
        if kind == 'gaussian':
            return normal / size**0.5
        q, r = torch.linalg.qr(normal)
        return q * r.diag().sign()

    @torch.no_grad()
    def _start(self) -> None:
        """Set the layers, then the predictor that suits them, then the target's copy."""
        layers = [self._draw(self.layer_init) for _ in self.encoder.layers]
        self.encoder.set_weights([self.scale * layer for layer in layers])
        # the nearest rotation, which is the product itself unless layers are gaussian
        left, _, right = torch.linalg.svd(product(layers))
        self.frame.copy_(left @ right)
        first = self._draw('identity' if self.predictor_init == 'aligned' else self.predictor_init)
        if self.predictor_init == 'aligned' and self.objective == 'mae':
            first = self.frame.T
        rest = [self._draw('identity') for _ in self.predictor.layers[1:]]
        self.predictor.set_weights([self.predictor_scale * layer for layer in (first, *rest)])
        self.target.sync(self.encoder)

    def extract_feat(self, inputs: dict) -> Tensor:
        """Features (B, 2, d) of both views."""
        return self.encoder(inputs['pairs'].to(self.frame.dtype).unflatten(1, (2, -1)))

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss of ``pairs`` (B, 2d), each a row (x, y).

        Args:
            inputs: see above.
            data_samples: unused.
        """
        pairs = inputs['pairs'].to(self.frame.dtype)
        masks = self.require_masks()(pairs)
        target = self.target(self.encoder, pairs[:, masks.targets])
        prediction = self.predictor(self.encoder(pairs[:, masks.context]))
        self.record(target, prediction)
        return self.loss_module(prediction, target)
