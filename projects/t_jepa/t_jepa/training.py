"""Early-stopped training of a network on tensors in memory."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.engine.config import ConfigError

Task = Literal['binclass', 'multiclass', 'regression']


@dataclass(frozen=True)
class Budget:
    """How long a network may train; equal in all arms.

    Attributes:
        batch_size: rows a step.
        max_epochs: the length of the cosine schedule.
        patience: epochs without a lower validation loss before it ends.
    """

    batch_size: int = 512
    max_epochs: int = 200
    patience: int = 16

    def __post_init__(self) -> None:
        if min(self.batch_size - 1, self.max_epochs, self.patience) < 1:
            raise ConfigError(
                f'epochs and patience are at least 1, the batch at least 2, got {self}'
            )


@dataclass(frozen=True)
class Fit:
    """What a training came to."""

    epochs: int  # until it ended
    best_epoch: int  # whose weights were kept, from 1
    val_loss: float


def outputs_of(task: Task, classes: int) -> int:
    """Numbers that a network gives for a row."""
    return classes if task == 'multiclass' else 1


def loss_of(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean squared error, or cross-entropy: of outputs (B, O) and targets (B,)."""
    if task == 'multiclass':
        return F.cross_entropy
    function: Any = F.mse_loss if task == 'regression' else F.binary_cross_entropy_with_logits
    return lambda outputs, targets: function(outputs.squeeze(1), targets.to(outputs.dtype))


@torch.no_grad()
def predict(net: nn.Module, rows: Tensor, batch_size: int = 8192) -> Tensor:
    """Outputs (N, O) in eval mode."""
    net.eval()
    return torch.cat([net(part) for part in rows.split(batch_size)])


def train(
    net: nn.Module,
    task: Task,
    rows: Tensor,
    targets: Tensor,
    val_rows: Tensor,
    val_targets: Tensor,
    lr: float,
    weight_decay: float = 0.0,
    budget: Budget = Budget(),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train until the validation loss stops to fall, and restore the best weights.

    Args:
        net: on the device of the rows; changed.
        task: says which loss.
        rows: (N, ...).
        targets: (N,) classes, or standardised numbers.
        val_rows: (M, ...), of the training part, never of the test part.
        val_targets: (M,).
        lr: of AdamW, at the start of the cosine.
        weight_decay: of AdamW, of matrices.
        budget: epochs and patience.
        seed: of the order of the rows.
        progress: told epochs and their largest number.

    Raises:
        ValueError: no row to train or to validate on.
        RuntimeError: the loss is not finite.
    """
    if len(rows) < 2 or not len(val_rows):
        raise ValueError(f'{len(rows)} rows to train and {len(val_rows)} to validate on: too few')
    loss, device = loss_of(task), rows.device
    per_epoch = max(1, math.ceil((len(rows) - 1) / budget.batch_size))  # no batch of one row
    optimizer = torch.optim.AdamW(_groups(net, weight_decay), lr=lr, fused=True)
    steps = per_epoch * budget.max_epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator(device).manual_seed(seed)
    best, kept = Fit(0, 0, math.inf), copy.deepcopy(net.state_dict())
    for epoch in range(1, budget.max_epochs + 1):
        net.train()
        places = torch.randperm(len(rows), generator=order, device=device)
        for batch in places.split(budget.batch_size)[:per_epoch]:
            optimizer.zero_grad()
            loss(net(rows[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
        value = float(loss(predict(net, val_rows), val_targets))
        if not math.isfinite(value):
            raise RuntimeError(
                f'validation loss {value} after epoch {epoch}: a smaller learning rate than {lr:g}'
            )
        if value < best.val_loss:
            best, kept = Fit(epoch, epoch, value), copy.deepcopy(net.state_dict())
        if progress is not None:
            progress(epoch, budget.max_epochs)
        if epoch - best.best_epoch >= budget.patience:
            break
    net.load_state_dict(kept)
    return Fit(epoch, best.best_epoch, best.val_loss)


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and norms are not decayed."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in net.named_parameters():
        groups[parameter.ndim > 1 and not name.endswith('bias')].append(parameter)
    return [
        dict(params=params, weight_decay=weight_decay if decayed else 0.0)
        for decayed, params in groups.items()
        if params
    ]


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation (population) of the training part's target."""

    mean: float
    std: float

    @classmethod
    def of(cls, targets: Tensor) -> 'TargetScale':
        """From the targets (N,) of the training part.

        Raises:
            ValueError: they are all equal.
        """
        mean, std = float(targets.double().mean()), float(targets.double().std(unbiased=False))
        if not std > 0:
            raise ValueError(f'the target is {mean:g} in every training row: nothing to learn')
        return cls(mean, std)

    def standardise(self, targets: Tensor) -> Tensor:
        """(N,) float32."""
        return ((targets.double() - self.mean) / self.std).float()


def metrics_of(
    task: Task, outputs: Tensor, targets: Tensor, scale: TargetScale | None = None
) -> dict[str, float]:
    """Figures over all rows at once.

    Args:
        task: says which.
        outputs: (N, O) logits, or (N, 1) standardised numbers.
        targets: (N,) classes, or standardised numbers.
        scale: of the target, for regression.

    Returns:
        ``accuracy`` in percent, or ``rmse`` on the standardised target and ``rmse_unit`` in its
        own unit.
    """
    if task == 'regression':
        if scale is None:
            raise ValueError('regression needs the scale of the target')
        error = (outputs.squeeze(1).double() - targets.double()).square().mean().sqrt()
        return dict(rmse=float(error), rmse_unit=float(error) * scale.std)
    classes = (outputs.squeeze(1) > 0).long() if task == 'binclass' else outputs.argmax(1)
    return dict(accuracy=100 * float((classes == targets).double().mean()))
