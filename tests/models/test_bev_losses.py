"""AD-L-JEPA's loss in closed form."""

import pytest
import torch
import torch.nn.functional as F

from mmjepa.models.layers.rows import fill_map, gather_rows, gather_rows_or_zero
from mmjepa.models.losses import BEVJEPALoss, cosine_distance, variance_hinge


def test_constant_rows_give_the_largest_hinge():
    rows = F.normalize(torch.ones(10, 256), dim=1)
    hinge, valid = variance_hinge(rows, torch.zeros(10, dtype=torch.long), 1, 1 / 16)
    assert hinge.item() == pytest.approx(0.0625 - 0.01, abs=1e-6)
    assert valid.tolist() == [True]


def test_hinge_of_each_sample():
    g = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(50, 8, generator=g), dim=1)
    sample = torch.randint(0, 3, (50,), generator=g).sort().values
    hinge, _ = variance_hinge(rows, sample, 4, 8**-0.5)
    for b in range(3):
        std = (rows[sample == b].var(0, unbiased=True) + 1e-4).sqrt()
        assert hinge[b].item() == pytest.approx(F.relu(8**-0.5 - std).mean().item(), abs=1e-6)


def test_samples_without_two_rows_do_not_count():
    rows = torch.randn(4, 8, requires_grad=True)
    hinge, valid = variance_hinge(rows, torch.tensor([0, 1, 1, 1]), 3, 0.35)
    assert valid.tolist() == [False, True, False]
    assert hinge[0] == hinge[2] == 0
    hinge.sum().backward()
    assert torch.isfinite(rows.grad).all()


def _loss(module=None, **kwargs):
    """Two samples on a 2 x 2 map, D = 4, with known cosines 0.5, 0 (occupied) and 1, -1 (empty)."""
    e = torch.eye(4)
    given = dict(
        context_rows=torch.stack([e[0], e[1], e[0], e[0]]),
        context_sample=torch.tensor([0, 0, 1, 1]),
        predicted_occupied=torch.stack([3 * (0.5 * e[0] + 0.75**0.5 * e[1]), 2 * e[2]]),
        occupied_sample=torch.tensor([0, 0]),
        target_occupied=torch.stack([e[0], e[3]]),
        predicted_empty=torch.stack([5 * e[1], -e[1]]),
        target_empty=e[1:2],
        batch_size=2,
    )
    given.update(kwargs)
    return (module or BEVJEPALoss())(**given)


def test_closed_form():
    out = _loss()
    assert out['loss_occupied'].item() == pytest.approx(0.75 * (0.5 + 1) / 2)
    assert out['loss_empty'].item() == pytest.approx(0.25 * (0 + 2) / 2)

    def hinge(rows):
        return F.relu(0.5 - (rows.var(0, unbiased=True) + 1e-4).sqrt()).mean()

    e = torch.eye(4)
    context = (hinge(torch.stack([e[0], e[1]])) + hinge(torch.stack([e[0], e[0]]))) / 2
    prediction = hinge(torch.stack([0.5 * e[0] + 0.75**0.5 * e[1], e[2]]))
    assert out['hinge_context'].item() == pytest.approx(context.item(), abs=1e-6)
    assert out['hinge_prediction'].item() == pytest.approx(prediction.item(), abs=1e-6)
    assert out['loss_variance'].item() == pytest.approx((context + prediction).item(), abs=1e-6)


def test_weights_and_pooling():
    out = _loss(BEVJEPALoss(jepa_weight=2, variance_weight=10))
    base = _loss()
    assert out['loss_empty'].item() == pytest.approx(2 * base['loss_empty'].item())
    assert out['loss_variance'].item() == pytest.approx(10 * base['loss_variance'].item())
    pooled = _loss(BEVJEPALoss(pool_cells=True))
    total = (pooled['loss_occupied'] + pooled['loss_empty']).item()
    assert total == pytest.approx((0.5 + 1 + 0 + 2) / 4)


def test_no_masked_cells_is_zero_not_nan():
    empty = torch.zeros(0, 4, requires_grad=True)
    out = _loss(
        predicted_occupied=empty,
        occupied_sample=torch.zeros(0, dtype=torch.long),
        target_occupied=torch.zeros(0, 4),
        predicted_empty=torch.zeros(0, 4),
    )
    total = sum(v for k, v in out.items() if 'loss' in k)
    assert torch.isfinite(total)
    assert out['loss_occupied'] == 0


def test_cosine_distance_is_float32_under_autocast():
    a, b = torch.randn(5, 16).bfloat16(), torch.randn(5, 16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = cosine_distance(a, b)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, 1 - F.cosine_similarity(a.float(), b))


def test_rows_and_map_gradients():
    g = torch.Generator().manual_seed(0)
    table = torch.randn(9, 3, generator=g, dtype=torch.double, requires_grad=True)
    index = torch.tensor([7, 0, 4])
    assert torch.autograd.gradcheck(lambda t: gather_rows(t, index), table)
    rows = torch.randn(3, 4, generator=g, requires_grad=True)
    tokens = torch.randn(2, 4, generator=g, requires_grad=True)
    token_id = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0, 1])
    weight = torch.randn(9, 4, generator=g)
    (fill_map(rows, tokens, index, token_id, torch.float32) * weight).sum().backward()
    grads = rows.grad.clone(), tokens.grad.clone()
    rows.grad = tokens.grad = None
    plain = tokens[token_id].index_copy(0, index, rows)
    (plain * weight).sum().backward()
    torch.testing.assert_close(grads[0], rows.grad)
    torch.testing.assert_close(grads[1], tokens.grad)


def test_hinge_is_float32_under_autocast():
    g = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(40, 64, generator=g), dim=1).requires_grad_()
    sample = torch.arange(40) // 20
    exact = torch.autograd.grad(variance_hinge(rows, sample, 2, 1 / 8)[0].sum(), rows)[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        hinge = variance_hinge(rows, sample, 2, 1 / 8)[0].sum()
    mixed = torch.autograd.grad(hinge, rows)[0]
    assert torch.equal(mixed, exact)


def test_rows_or_zero():
    g = torch.Generator().manual_seed(0)
    table = torch.randn(5, 3, generator=g, dtype=torch.double, requires_grad=True)
    index = torch.tensor([5, 2, 5, 0, 5])
    assert (gather_rows_or_zero(table, index)[[0, 2, 4]] == 0).all()
    assert torch.autograd.gradcheck(lambda t: gather_rows_or_zero(t, index), table)


def test_gradients_are_the_same_every_time_on_several_threads():
    rows = F.normalize(torch.randn(6000, 256), dim=1).requires_grad_()
    sample = torch.randint(0, 2, (6000,))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        grads = [
            torch.autograd.grad(variance_hinge(rows, sample, 2, 1 / 16)[0].sum(), rows)[0]
            for _ in range(10)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
