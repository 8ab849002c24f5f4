"""Pairs of pre-training loss and probe accuracy, and their rank correlation."""

import json
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from mmjepa.evaluation.loss_accuracy import LossAccuracy, loss_accuracy_pairs, rank_correlation


def test_pairs_are_read_from_the_log(tmp_path):
    rows = [
        {'loss': 0.9, 'step': 10},
        {'probe/attentive': 0.2, 'probe/train_loss': 0.8, 'step': 10},
        {'probe/attentive': 0.5, 'step': 15},
        {'probe/attentive': 0.6, 'probe/train_loss': 0.5, 'step': 20},
    ]
    folder = tmp_path / '1' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
    expected = [LossAccuracy(10, 0.8, 0.2), LossAccuracy(20, 0.5, 0.6)]
    assert loss_accuracy_pairs(tmp_path) == expected
    with pytest.raises(ValueError, match='no probe/knn beside probe/train_loss'):
        loss_accuracy_pairs(tmp_path, 'knn')
    with pytest.raises(FileNotFoundError):
        loss_accuracy_pairs(tmp_path / 'none')


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    for ties in (False, True):
        x, y = rng.normal(size=(2, 30))
        if ties:
            x, y = x.round(), y.round()
        assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([1, 1], [1, 2]))
    with pytest.raises(ValueError, match='2 and 1 numbers'):
        rank_correlation([1, 2], [1])
