"""Which features a row shows and which are predicted."""

import pytest
import torch

from projects.t_jepa.t_jepa.masks import FeatureSubsetMaskGenerator

# (n_c, n_t) of the first ten batches of Jannis, measured on the released code
JANNIS = [
    (13, 28), (17, 15), (15, 18), (7, 11), (14, 23),
    (18, 11), (14, 22), (14, 13), (15, 30), (16, 16),
]  # fmt: skip


def seeds(count=64, start=0):
    return torch.arange(count) * 977 + start


def test_sizes_are_those_of_the_released_code():
    draw = FeatureSubsetMaskGenerator(54)
    assert (draw.context_range, draw.target_range) == ((7, 20), (8, 34))
    assert [draw.sizes(s) for s in range(10)] == JANNIS
    sizes = torch.tensor([draw.sizes(s) for s in range(400)]).double()
    assert (sizes.mean(0) - torch.tensor([13.5, 20.4])).abs().max() < 0.1
    assert (sizes.sum(1) <= 54).all()


def test_sizes_are_drawn_until_they_fit():
    draw = FeatureSubsetMaskGenerator(8, (0.2, 0.9), (0.2, 0.9))
    sizes = [draw.sizes(s) for s in range(300)]
    assert {a + b for a, b in sizes} == set(range(4, 9))
    # half to even, as Python
    assert FeatureSubsetMaskGenerator(10, (0.05001, 0.25)).context_range == (1, 2)


@pytest.mark.parametrize('semantics', ['paper', 'released'])
def test_sets_are_disjoint_from_the_context(semantics):
    draw = FeatureSubsetMaskGenerator(12, (0.2, 0.5), (0.2, 0.4), semantics=semantics)
    for number in range(20):
        masks = draw(seeds(start=number), number)
        n_context, n_target = draw.sizes(number)
        assert masks.context.shape == (64, n_context)
        assert masks.targets.shape == (64, 4, n_target)
        for context, targets in zip(masks.context.tolist(), masks.targets.tolist(), strict=True):
            assert len(set(context)) == n_context
            for target in targets:
                assert len(set(target)) == n_target
                assert set(target) <= set(range(12)) - set(context)


def test_the_sets_differ_unless_as_released():
    paper = FeatureSubsetMaskGenerator(12, (0.2, 0.5), (0.2, 0.3))(seeds(), 0).targets
    kinds = {len({tuple(sorted(s)) for s in row}) for row in paper.tolist()}
    assert kinds <= {2, 3, 4} and 4 in kinds
    draw = FeatureSubsetMaskGenerator(12, (0.2, 0.5), (0.2, 0.3), semantics='released')
    released = draw(seeds(), 0).targets
    assert torch.equal(released, released[:, :1].expand_as(released))


def test_features_are_drawn_alike():
    """Context and every place of every set: each feature equally often."""
    draw = FeatureSubsetMaskGenerator(8, (0.25, 0.5), (0.25, 0.4))
    masks = draw(seeds(20_000), 3)
    for part in (masks.context, *masks.targets.unbind(1)):
        for place in part.unbind(1):
            share = place.bincount(minlength=8) / len(place)
            assert (share - 1 / 8).abs().max() < 0.012  # 5 standard deviations


def test_masks_belong_to_the_row():
    """The same seed gives the same sets in any batch of the same sizes, at any place in it."""
    draw = FeatureSubsetMaskGenerator(12, (0.2, 0.5), (0.2, 0.4))
    whole = draw(seeds(), 5)
    torch.manual_seed(9)  # the global generator has no say
    part = draw(seeds()[[40, 3]], 5)
    assert torch.equal(part.context, whole.context[[40, 3]])
    assert torch.equal(part.targets, whole.targets[[40, 3]])
    assert not torch.equal(draw(seeds(start=1), 5).context, whole.context)


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(num_targets=0), 'num_targets'),
        (dict(semantics='code'), 'semantics'),
        (dict(context_share=(0.0, 0.4)), 'context_share must ascend'),
        (dict(context_share=(0.4, 0.3)), 'context_share must ascend'),
        (dict(target_share=(0.2, 1.1)), 'target_share must ascend'),
        (dict(target_share=(0.05, 0.5)), 'target_share: 0.05 of num_features=8 rounds to no'),
        (dict(context_share=(0.25, 0.28)), 'context_share.*leaves one size'),
        (dict(context_share=(0.6, 0.9), target_share=(0.5, 0.7)), 'context_share and target_share'),
    ],
)
def test_what_cannot_be_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        FeatureSubsetMaskGenerator(8, **options)


@pytest.mark.cuda
def test_cuda_draws_the_same():
    draw = FeatureSubsetMaskGenerator(54)
    here, there = draw(seeds(512), 4), draw(seeds(512).cuda(), 4)
    assert torch.equal(here.context, there.context.cpu())
    assert torch.equal(here.targets, there.targets.cpu())
