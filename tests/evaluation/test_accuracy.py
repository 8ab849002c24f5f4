"""Top-k accuracy against a sort, over ranks and the padded last batch."""

import json

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator

from mmjepa.evaluation.metrics import Accuracy
from mmjepa.registry import METRICS


def samples(count=37, classes=8, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, classes)).astype(np.float32)
    labels = rng.integers(classes, size=count)
    return [
        dict(scores=torch.from_numpy(row), label=int(label), path=str(i))
        for i, (row, label) in enumerate(zip(scores, labels, strict=True))
    ]


def oracle(data, k):
    """By sorting all the scores, in percent."""
    hits = [
        sample['label'] in np.argsort(-sample['scores'].numpy(), kind='stable')[:k]
        for sample in data
    ]
    return 100 * np.mean(hits)


@pytest.mark.parametrize('batch_size', [1, 5, 37])
def test_figures_in_batches_of_any_size(batch_size):
    data = samples()
    metric = METRICS.build(dict(type='Accuracy', topk=(1, 3, 5)))
    for start in range(0, len(data), batch_size):
        metric.process(None, data[start : start + batch_size])
    found = metric.evaluate(len(data))
    assert found.keys() == {'accuracy/top1', 'accuracy/top3', 'accuracy/top5'}
    for k in (1, 3, 5):
        assert found[f'accuracy/top{k}'] == pytest.approx(oracle(data, k))
    assert found['accuracy/top1'] < found['accuracy/top3'] < found['accuracy/top5']


@pytest.mark.parametrize('world', [2, 3])
def test_samples_that_pad_the_ranks_count_once(world, monkeypatch):
    """37 samples on 2 or 3 ranks: the sampler repeats the first ones."""
    data = samples()
    for sample in data[:3]:  # repeated ones would show
        sample['scores'][sample['label']] = 100
    parts = []
    for rank in range(world):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, world))
        metric = Accuracy(topk=(1,))
        metric.process(None, [data[i] for i in DefaultSampler(data, shuffle=False)])
        parts.append(metric.results)
    assert sum(map(len, parts)) > len(data)

    def gathered(results, size, device, tmpdir=None):
        return [place for places in zip(*parts, strict=True) for place in places][:size]

    monkeypatch.setattr('mmengine.evaluator.metric.collect_results', gathered)
    assert metric.evaluate(len(data))['accuracy/top1'] == pytest.approx(oracle(data, 1))


def test_equal_scores_count_once():
    metric = Accuracy(topk=(1,))
    flat = torch.zeros(4)
    metric.process(None, [dict(scores=flat, label=label) for label in range(4)])
    assert metric.evaluate(4)['accuracy/top1'] == 25


def test_within_an_evaluator():
    data = samples()
    evaluator = Evaluator([Accuracy(topk=(1,))])
    evaluator.process(data_samples=data, data_batch={})
    assert json.dumps(evaluator.evaluate(len(data)))


def test_bad_input():
    for topk in ((), (0,)):
        with pytest.raises(ValueError, match='topk'):
            Accuracy(topk=topk)
    nan = dict(scores=torch.tensor([0.0, float('nan'), 1.0]), label=1, path='a.png')
    with pytest.raises(ValueError, match=r'a\.png: scores with NaN'):
        Accuracy(topk=(1,)).process(None, [nan])
    with pytest.raises(ValueError, match='of 5 classes'):
        Accuracy(topk=(1, 5)).process(None, [dict(scores=torch.zeros(5), label=1)])
    with pytest.raises(ValueError, match='nothing was predicted'):
        Accuracy().compute_metrics([])


def test_softmaxes_of_views_are_averaged():
    rng = np.random.default_rng(0)
    logits = 5 * torch.from_numpy(rng.normal(size=(40, 3, 6)))
    labels = rng.integers(6, size=40)
    metric = Accuracy(topk=(1, 2))
    metric.process(
        None, [dict(scores=s, label=int(y)) for s, y in zip(logits, labels, strict=True)]
    )
    mean = [
        dict(scores=s, label=y) for s, y in zip(logits.softmax(-1).mean(1), labels, strict=True)
    ]
    found = metric.evaluate(40)
    assert found == pytest.approx({f'accuracy/top{k}': oracle(mean, k) for k in (1, 2)})
    plain = [dict(scores=s, label=y) for s, y in zip(logits.mean(1), labels, strict=True)]
    assert found['accuracy/top1'] != oracle(plain, 1)
