import math

import numpy as np
import pytest
import torch

from mmjepa.evaluation.functional import knn_predict, mean_class_accuracy, per_class_accuracy


def blobs(n, seed, classes=3, dim=8, spread=0.9):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=g)
    return centres[labels] + spread * torch.randn(n, dim, generator=g), labels


@pytest.mark.parametrize('chunk_size', [7, 1000])
def test_knn_equals_sklearn(chunk_size):
    neighbors = pytest.importorskip('sklearn.neighbors')
    train, labels = blobs(300, 0)
    test, _ = blobs(101, 1)
    # distance = 1 - similarity, so the weights differ by a constant factor only
    reference = neighbors.KNeighborsClassifier(
        20, metric='cosine', algorithm='brute', weights=lambda d: np.exp(-d / 0.07)
    )
    reference.fit(train.double().numpy(), labels.numpy())
    ours = knn_predict(train, labels, test, k=20, temperature=0.07, chunk_size=chunk_size)
    assert (ours.numpy() == reference.predict(test.double().numpy())).all()


def test_near_neighbours_outvote_many_far_ones():
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    labels = torch.tensor([0, 1, 1, 1])
    query = torch.tensor([[2.0, 0.0]])
    # votes: exp(1/.07) against 3 exp(.6/.07): ratio exp(.4/.07)/3 = 101
    assert knn_predict(train, labels, query, k=4).tolist() == [0]
    # at a high temperature the majority wins
    assert knn_predict(train, labels, query, k=4, temperature=10.0).tolist() == [1]


def test_fewer_samples_than_k_and_no_query():
    train, labels = blobs(5, 0)
    assert knn_predict(train, labels, train, k=20).shape == (5,)
    assert knn_predict(train, labels, train[:0]).shape == (0,)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'test_feats': torch.zeros(2, 5)}, 'channels'),
        ({'train_labels': torch.zeros(2, dtype=torch.long)}, 'labels'),
        ({'k': 0}, 'k must be'),
        ({'train_feats': torch.zeros(0, 4), 'train_labels': torch.zeros(0).long()}, 'at least one'),
    ],
)
def test_knn_refuses_bad_input(change, message):
    good = {
        'train_feats': torch.rand(3, 4),
        'train_labels': torch.zeros(3).long(),
        'test_feats': torch.rand(2, 4),
    }
    with pytest.raises(ValueError, match=message):
        knn_predict(**{**good, **change})


def test_accuracies():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    predictions = torch.tensor([0, 0, 0, 1, 1, 0])
    accuracy = per_class_accuracy(predictions, labels, 3)
    assert accuracy[:2].tolist() == [0.75, 0.5]
    assert math.isnan(accuracy[2])
    assert mean_class_accuracy(predictions, labels, 3).item() == pytest.approx(0.625)
    with pytest.raises(ValueError, match='predictions'):
        per_class_accuracy(predictions[:3], labels, 3)
