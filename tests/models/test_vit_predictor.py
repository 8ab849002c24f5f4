"""ViTPredictor: sizes, sets of targets, positions, mask tokens."""

import pytest
import torch

from mmjepa.models.predictors import ViTPredictor

GRID = (4, 4, 4)
POSITIONS = ['sincos', 'rotary', 'rotary_vjepa2']


def make(**options):
    torch.manual_seed(0)
    predictor = ViTPredictor(GRID, 32, **dict(channels=24, depth=2, num_heads=3) | options).eval()
    for block in predictor.blocks:  # attention far from uniform, so that positions matter
        block.attn.qkv.weight.data *= 5
    return predictor


def draw(context=10, targets=7):
    rng = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(64, generator=rng) for _ in range(2)])
    tokens = torch.randn(2, context, 32, generator=rng)
    return tokens, ids[:, :context], ids[:, context : context + targets]


@pytest.mark.parametrize(
    ('width', 'out', 'size'),
    [
        (768, 768, 21_886_080),
        (1024, 1024, 22_082_944),
        (1280, 1024, 22_181_248),
        (1408, 1024, 22_230_400),
        (1664, 1024, 22_328_704),
        (1024, 1536, 22_280_064),  # pixels of tubelets: SALT's first stage
    ],
)
@pytest.mark.parametrize('positions', ['sincos', 'rotary'])
def test_published_sizes(width, out, size, positions):
    with torch.device('meta'):
        predictor = ViTPredictor(
            (8, 14, 14), width, out, 384, 12, 16, positions=positions, mask_tokens=2
        )
    assert sum(p.numel() for p in predictor.parameters()) == size


@pytest.mark.parametrize('positions', POSITIONS)
def test_predictions_follow_their_ids(positions):
    predictor, (context, context_ids, target_ids) = make(positions=positions), draw()
    with torch.no_grad():
        wanted = predictor(context, context_ids, target_ids)
        assert wanted.shape == (2, 7, 32)
        order = torch.randperm(7)
        found = predictor(context, context_ids, target_ids[:, order])
        torch.testing.assert_close(found, wanted[:, order], rtol=1e-4, atol=1e-5)
        order = torch.randperm(10)
        found = predictor(context[:, order], context_ids[:, order], target_ids)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        # places and tokens of the context matter, the other clip's do not
        assert not torch.allclose(predictor(context, context_ids[:, order], target_ids), wanted)
        other = context.clone()
        other[1] += 1
        found = predictor(other, context_ids, target_ids)
        assert torch.equal(found[0], wanted[0]) and not torch.equal(found[1], wanted[1])


@pytest.mark.parametrize('positions', POSITIONS)
def test_sets_of_targets_are_apart(positions):
    """(B, M, K) is M calls with (B, K)."""
    predictor, (context, context_ids, target_ids) = make(positions=positions), draw(targets=9)
    sets = target_ids.unflatten(1, (3, 3))
    with torch.no_grad():
        together = predictor(context, context_ids, sets)
        assert together.shape == (2, 3, 3, 32)
        for i in range(3):
            alone = predictor(context, context_ids, sets[:, i])
            torch.testing.assert_close(together[:, i], alone, rtol=1e-4, atol=1e-5)


def test_width_of_the_targets():
    context, context_ids, target_ids = draw()
    assert make(out_channels=40)(context, context_ids, target_ids).shape == (2, 7, 40)


@pytest.mark.parametrize('positions', POSITIONS)
def test_other_grids(positions):
    """Targets that exist in the grid of the batch alone."""
    predictor, (context, context_ids, _) = make(positions=positions), draw()
    targets = torch.tensor([[95, 94], [65, 64]])
    found = predictor(context, context_ids, targets, (4, 4, 6))
    assert found.shape == (2, 2, 32)
    # the same numbers are other places there
    same = torch.tensor([[20, 30], [40, 50]])
    here, there = (predictor(context, context_ids, same, grid) for grid in (None, (4, 2, 8)))
    assert not torch.allclose(here, there)


def test_mask_tokens_are_chosen_by_index():
    predictor, inputs = make(mask_tokens=3, mask_token_std=0.5), draw()
    found = [predictor(*inputs, mask_index=i) for i in range(3)]
    assert torch.equal(predictor(*inputs), found[0])
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])
    found[1].square().sum().backward()
    used = predictor.mask_token.grad.flatten(1).any(1)
    assert used.tolist() == [False, True, False]
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f'mask_index {wrong}: there are 3'):
            predictor(*inputs, mask_index=wrong)


def test_start_of_mask_tokens():
    assert not make(mask_tokens=2, mask_token_std=0).mask_token.any()
    assert make(mask_tokens=2).mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert set(make().state_dict()) - set(make(positions='rotary').state_dict()) == {'pos_embed'}


@pytest.mark.parametrize('positions', POSITIONS)
def test_recomputing_gives_equal_gradients(positions):
    predictor, inputs = make(positions=positions), draw()
    gradients = []
    for predictor.checkpoint_blocks in (False, True):
        predictor.zero_grad()
        predictor(*inputs).square().mean().backward()
        gradients.append([p.grad.clone() for p in predictor.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(plain, again)


def test_bad_settings():
    with pytest.raises(ValueError, match='positions must be'):
        make(positions='learned')
    with pytest.raises(ValueError, match='mask_tokens must be 1 or more'):
        make(mask_tokens=0)
