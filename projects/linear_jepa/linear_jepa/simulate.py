"""Plain gradient descent through the toolkit's own method class."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmjepa.models.targets import TargetEncoder
from mmjepa.models.targets.target_encoder import Policy

from . import theory
from .measure import amplitudes, hit_times, off_diagonal, product
from .model import DeepLinear, HalfSquaredError, LinearJEPA, SecondViewMaskGenerator
from .processes import LinearProcess

Array = NDArray[np.float64]


def build(
    channels: int,
    depth: int,
    epsilon: float,
    policy: Policy = 'stop_grad',
    seed: int = 0,
    predictor_depth: int = 1,
    **init: Any,
) -> LinearJEPA:
    """An initialised method.

    Args:
        channels: features.
        depth: layers of the encoder.
        epsilon: amplitude at the start.
        policy: of the target; 'data' makes the MAE.
        seed: of the weights.
        predictor_depth: layers of the predictor.
        **init: further arguments of :class:`LinearJEPA`.
    """
    target = TargetEncoder(policy, transform=torch.nn.Identity() if policy == 'data' else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearJEPA(
            DeepLinear(channels, depth), target, DeepLinear(channels, predictor_depth),
            SecondViewMaskGenerator(channels), HalfSquaredError(), epsilon=epsilon, **init,
        )  # fmt: skip


@dataclass
class Descent:
    """A run of gradient descent.

    Attributes:
        times: (n,) steps x learning rate.
        amplitudes: (n, d).
        off_diagonal: largest mixing of features at the end.
    """

    times: Array
    amplitudes: Array
    off_diagonal: float

    def hits(self, levels: Array) -> Array:
        """(d,) times at which the amplitudes come to these levels."""
        return hit_times(self.times, self.amplitudes, levels)


def _batches(process: LinearProcess, batch_size: int | None, seed: int) -> Iterator[Tensor]:
    if batch_size is None:
        exact = torch.from_numpy(process.exact_batch)
        while True:
            yield exact
    rng = np.random.default_rng(seed)
    while True:  # many batches at once: drawing is most of a step otherwise
        yield from torch.from_numpy(process.sample(256 * batch_size, rng)).split(batch_size)


def descend(
    model: LinearJEPA,
    process: LinearProcess,
    lr: float,
    time: float,
    batch_size: int | None = None,
    seed: int = 0,
    every: int = 1,
) -> Descent:
    """Plain SGD, which is Euler's rule for gradient flow, up to ``time`` = steps x lr.

    Args:
        model: initialised; it is trained in place.
        process: the data; needs a common basis.
        lr: learning rate.
        time: to train for.
        batch_size: fresh samples a step; None: the exact moments.
        seed: of the samples.
        every: steps between records.

    Raises:
        FloatingPointError: it diverged.
    """
    lam, rho, axes = process.features
    basis = torch.from_numpy(axes)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    rows = [amplitudes(product(model.encoder.weights), model.frame, basis)]
    steps = -(-int(np.ceil(time / lr)) // every) * every
    for step, pairs in enumerate(islice(_batches(process, batch_size, seed), steps), 1):
        optimizer.zero_grad()
        model.loss(dict(pairs=pairs))['loss_prediction'].backward()
        optimizer.step()
        if step % every == 0:
            rows.append(amplitudes(product(model.encoder.weights), model.frame, basis))
    found = torch.stack(rows).numpy()
    if not np.isfinite(found).all():
        rate = theory.largest_rate(lam, rho, len(model.encoder.layers), model.objective)
        raise FloatingPointError(
            f'gradient descent diverged at lr={lr}: stay well below {1 / rate:.3g}'
        )
    mixing = float(off_diagonal(product(model.encoder.weights), model.frame, basis))
    return Descent(np.arange(len(rows)) * lr * every, found, mixing)
