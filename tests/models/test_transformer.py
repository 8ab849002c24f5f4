"""Attention in bfloat16 on CPU, which takes a way of its own."""

import pytest
import torch
import torch.nn.functional as F

from mmjepa.models.layers.transformer import attend


def attended(function, qkv):
    """Outputs and gradients of a loss that weighs every output differently."""
    q, k, v = (part.detach().requires_grad_() for part in qkv)
    out = function(q, k, v)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [part.detach().float() for part in (out, q.grad, k.grad, v.grad)]


@pytest.mark.parametrize('shape', [(2, 3, 7, 32), (1, 2, 64, 16)])
def test_plain_products_agree_with_the_fused_kernel(shape):
    """To bfloat16's rounding, an eighth of what a wrong scale would change."""
    rng = torch.Generator().manual_seed(0)
    exact = [torch.randn(*shape, generator=rng) for _ in range(3)]
    low = [part.bfloat16() for part in exact]
    wanted = attended(F.scaled_dot_product_attention, [part.float() for part in low])
    wrong = attended(lambda q, k, v: F.scaled_dot_product_attention(2 * q, k, v), exact)
    for found, right, other in zip(attended(attend, low), wanted, wrong, strict=True):
        assert (found - right).norm() < 0.02 * right.norm() < (other - right).norm() / 8


def test_float32_is_the_fused_kernel():
    q, k, v = torch.randn(3, 2, 2, 5, 8)
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_nobody_sees_invalid_keys(dtype):
    """Other keys and values there change nothing, and the result is that of the valid ones."""
    q, k, v = torch.randn(3, 2, 3, 6, 16, dtype=dtype)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    keys = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    found = attend(q, k, v, keys[:, None, None])
    for row in range(2):
        kept = keys[row]
        alone = attend(q[row], k[row][:, kept], v[row][:, kept])
        torch.testing.assert_close(found[row], alone, rtol=tolerance, atol=tolerance)
    hidden = ~keys[:, None, :, None]
    changed = attend(
        q,
        torch.where(hidden, 9.0, k).to(dtype),
        torch.where(hidden, -9.0, v).to(dtype),
        keys[:, None, None],
    )
    assert torch.equal(changed, found)
