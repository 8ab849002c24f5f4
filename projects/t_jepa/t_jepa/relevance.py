"""Which features matter, told without labels: by what hiding them does to the predictions."""

from typing import Any

import torch
from torch import Tensor

from .masks import FeatureMasks

MEASURES = {
    'variance': 'variance of its embedding over rows (the paper ranks by it)',
    'rise': 'rise of the error of others when it is dropped from the context',
    'error': 'error of predicting it from random contexts / variance',
    'error_from_all': 'error of predicting it from all others / variance',
    'lost': 'share of its variance that ridge regression on the embedding does not recover',
}
RIDGE = 1e-5  # of the number of rows
FLOOR = 1e-12  # of a variance that divides


@torch.no_grad()
def relevance(model: Any, rows: Tensor, draws: int = 8, batch_size: int = 512) -> dict[str, Tensor]:
    """Measure every feature; errors are squared, over channels, relative to the target's variance.

    Args:
        model: :class:`TJEPA` of ``'paper'`` semantics, with a mask generator.
        rows: (N, D) float32.
        draws: masks of each row, of the sizes of training.
        batch_size: rows at a time.

    Returns:
        The ``MEASURES``, (D,) float64 on the CPU. NaN where no mask held the feature; ``lost`` of
        categories, and of all where half of the rows are fewer than the numbers of an embedding.

    Raises:
        ValueError: other semantics, or fewer than two rows.
    """
    if model.semantics != 'paper':
        raise ValueError(
            "relevance needs semantics='paper': the released masks never show the last feature"
        )
    if len(rows) < 2:
        raise ValueError('a variance over rows needs at least two rows')
    model.eval()
    parts = rows.split(batch_size)
    tokens = torch.cat([model.extract_feat(dict(rows=part)).double() for part in parts])
    own = tokens[:, -rows.shape[1] :]  # without [REG]
    variance = own.var(0).mean(1)
    targets = torch.cat([model.target(model.encoder, part).float() for part in parts])
    scale = targets[:, -rows.shape[1] :].double().var(0).mean(1).clamp_min(FLOOR)
    error, rise = _masked(model, parts, scale, draws)
    found = dict(variance=variance, rise=rise, error=error)
    found['error_from_all'] = _from_all(model, parts, scale)
    lost = _lost(own.flatten(1), rows.double())
    lost[model.encoder.tokenizer.num_numeric :] = torch.nan
    found['lost'] = lost
    return {name: value.cpu() for name, value in found.items()}


def _lost(embedding: Tensor, rows: Tensor) -> Tensor:
    """(D,) of (N, D * H) and (N, D); fitted on every other row, told on the rest."""
    fit, test = slice(0, None, 2), slice(1, None, 2)
    count, width = embedding[fit].shape
    if count <= width:
        return torch.full_like(rows[0], torch.nan)
    mean, std = embedding[fit].mean(0), embedding[fit].std(0).clamp_min(FLOOR)
    x, centre = (embedding - mean) / std, rows[fit].mean(0)
    gram = x[fit].T @ x[fit] + RIDGE * count * torch.eye(width).to(x)
    weights = torch.linalg.solve(gram, x[fit].T @ (rows[fit] - centre))
    missed = (rows[test] - centre - x[test] @ weights).square().mean(0)
    return missed / (rows[test] - centre).square().mean(0).clamp_min(FLOOR)


def _errors(model: Any, rows: Tensor, masks: FeatureMasks, scale: Tensor) -> Tensor:
    """(B, K, n_t) relative errors."""
    seen = model.inspect(dict(rows=rows), masks)
    squared = (seen['prediction'] - seen['target']).double().square().mean(3)
    return squared / scale[masks.targets]


def _masked(
    model: Any, parts: tuple[Tensor, ...], scale: Tensor, draws: int
) -> tuple[Tensor, Tensor]:
    """(D,) error of each feature as a target; and rise of the others' error without it."""
    sums = torch.zeros(4, len(scale), dtype=torch.float64, device=scale.device)
    first = 0
    for part in parts:
        for draw in range(draws):
            seeds = torch.arange(first, first + len(part), device=part.device) * draws + draw
            masks = model.require_masks()(seeds, first * draws + draw)
            errors = _errors(model, part, masks, scale)
            places = masks.targets.flatten()
            sums[0].index_add_(0, places, errors.flatten())
            sums[1].index_add_(0, places, torch.ones_like(errors.flatten()))
            if masks.context.shape[1] < 2:
                continue  # nothing would be left
            before = errors.mean((1, 2))
            for column in range(masks.context.shape[1]):
                kept = torch.arange(masks.context.shape[1], device=part.device) != column
                fewer = FeatureMasks(masks.context[:, kept], masks.targets)
                rise = _errors(model, part, fewer, scale).mean((1, 2)) - before
                dropped = masks.context[:, column]
                sums[2].index_add_(0, dropped, rise)
                sums[3].index_add_(0, dropped, torch.ones_like(rise))
        first += len(part)
    return sums[0] / sums[1], sums[2] / sums[3]


def _from_all(model: Any, parts: tuple[Tensor, ...], scale: Tensor) -> Tensor:
    """(D,) error of each feature from all the others; contexts in training are smaller."""
    everything = torch.arange(len(scale), device=scale.device)
    errors = []
    for feature in everything:
        others = everything[everything != feature]
        total = torch.zeros((), dtype=torch.float64, device=scale.device)
        for part in parts:
            masks = FeatureMasks(others.expand(len(part), -1), feature.expand(len(part), 1, 1))
            total += _errors(model, part, masks, scale).sum()
        errors.append(total / sum(map(len, parts)))
    return torch.stack(errors)
