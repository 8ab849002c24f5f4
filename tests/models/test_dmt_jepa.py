"""DMT-JEPA: neighbours, aggregation, and that a target depends on its own image only."""

import pytest
import torch
import torch.nn.functional as F
from test_ijepa import batch, build

from mmjepa.engine.hooks.collapse_monitor import collapse_statistics
from mmjepa.models.layers.aggregation import AggregationHead
from mmjepa.models.masks import BlockMasks
from mmjepa.models.targets import NeighbourTargets
from mmjepa.models.targets.neighbours import neighbour_table


def whole(batch_size, count):
    """Masks in which every patch is the target of one block."""
    ids = torch.arange(count).expand(batch_size, 1, -1)
    rows = torch.arange(batch_size * count)
    return BlockMasks(ids[:, 0], ids, rows, rows.view(batch_size, 1, count))


def test_neighbour_tables_by_hand():
    near, there = neighbour_table((3, 3), 3, wrap=False)
    found = [sorted(n[t].tolist()) for n, t in zip(near, there, strict=True)]
    assert found[4] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert found[0] == [1, 3, 4]
    assert found[1] == [0, 2, 3, 4, 5]
    near, there = neighbour_table((4, 4), 3, wrap=True)
    assert there.all()
    assert sorted(near[0].tolist()) == [1, 3, 4, 5, 7, 12, 13, 15]
    assert neighbour_table((5, 7), 5, wrap=False)[0].shape == (35, 24)


@pytest.mark.parametrize('border', ['clip', 'wrap'])
def test_known_winners(border):
    """Patch 5 of a 4 x 4 grid looks most like 0, 1, 4 and 10."""
    torch.manual_seed(0)
    tokens = torch.randn(1, 16, 64)
    for patch, weight in ((0, 3.0), (1, 2.0), (4, 2.5), (10, 2.2)):
        tokens[0, patch] += weight * tokens[0, 5]
    _, ids, seen = NeighbourTargets(border=border).choose(tokens, whole(1, 16), (4, 4))
    assert set(ids[5].tolist()) == {0, 1, 4, 10}
    assert seen[5].all()
    corner = set(ids[15][seen[15]].tolist())
    if border == 'clip':
        assert corner == {10, 11, 14}  # three neighbours only
        assert seen[15].sum() == 3
    else:
        assert len(corner) == 4


def test_block_border():
    """A patch of a 2 x 2 target block has the three others."""
    ids = torch.tensor([[[0, 1, 4, 5], [10, 11, 14, 15]]])
    masks = BlockMasks(ids[:, 0], ids, torch.tensor([]), torch.tensor([]))
    patches, near, seen = NeighbourTargets(border='block').choose(
        torch.randn(1, 16, 8), masks, (4, 4)
    )
    assert patches.tolist() == ids.flatten().tolist()
    assert seen.sum(1).tolist() == [3] * 8
    assert set(near[1][seen[1]].tolist()) == {0, 4, 5}


def naive(head, tokens, ids, seen, query):
    """Row by row, with every projection done for every row."""
    made = []
    for row in range(len(ids)):
        c = query[row]
        near = tokens[ids[row][seen[row]]]
        for block in head.blocks:
            u = block.norm1(torch.cat([c[None], near]))
            heads = block.attn.num_heads
            q = block.attn.q(u[:1]).view(1, heads, -1).transpose(0, 1)
            k, v = (
                f(u).view(len(u), heads, -1).transpose(0, 1) for f in (block.attn.k, block.attn.v)
            )
            weight = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
            c = c + block.attn.proj((weight @ v).transpose(0, 1).reshape(1, -1))[0]
            c = c + block.mlp(block.norm2(c))
        made.append(head.norm(c))
    return torch.stack(made)


@torch.no_grad()
def test_fast_path_equals_row_by_row():
    torch.manual_seed(0)
    head = AggregationHead(32, 4)
    for parameter in head.parameters():
        parameter.normal_(0, 0.2)
    tokens = F.layer_norm(torch.randn(2, 16, 32), (32,))
    targets = NeighbourTargets()
    masks = whole(2, 16)
    patches, ids, seen = targets.choose(tokens, masks, (4, 4))
    query = tokens.mean(1)[patches // 16]
    wanted = naive(head, tokens.flatten(0, 1), ids, seen, query).view(2, 1, 16, 32)
    torch.testing.assert_close(targets(tokens, masks, (4, 4), head), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'mixes'),
    [
        (dict(), False),
        (dict(border='wrap'), False),
        (dict(border='block'), False),
        (dict(query='patch'), False),
        (dict(query='released'), True),
    ],
)
def test_targets_of_an_image_are_its_own(options, mixes):
    model = build('DMTJEPA', neighbours=dict(type='NeighbourTargets', **options))
    torch.nn.init.normal_(model.target.head.blocks[0].attn.proj.weight, std=0.5)
    inputs = batch(4)
    before = model.inspect(inputs)['target'][0]
    images = inputs['images'].clone()
    images[1:] = torch.randn_like(images[1:])
    after = model.inspect(dict(inputs, images=images))['target'][0]
    assert torch.allclose(before, after, atol=1e-5) != mixes


def test_the_target_s_own_head_makes_targets():
    model, inputs = build('DMTJEPA'), batch()
    before = model.inspect(inputs)['target']
    for head, moves in ((model.head, False), (model.target.head, True)):
        torch.nn.init.normal_(head.blocks[0].attn.proj.weight)
        assert torch.equal(model.inspect(inputs)['target'], before) != moves


def test_released_queries_by_hand():
    """Row b N + i asks with the mean of image (b N + i) mod B."""
    tokens = torch.randn(3, 4, 8)
    found = NeighbourTargets(query='released')._queries(tokens, torch.arange(12))
    assert torch.equal(found, tokens.mean(1)[torch.tensor([0, 1, 2] * 4)])


@torch.no_grad()
def test_a_patch_enters_its_target_through_choice_and_mean_alone():
    torch.manual_seed(0)
    head, tokens = AggregationHead(16, 2), torch.randn(9, 16)
    ids, seen = torch.tensor([[0, 1, 2, 3]]), torch.ones(1, 4, dtype=torch.bool)
    query = tokens.mean(0, keepdim=True)
    first = head.aggregate(query, tokens, ids, seen)
    tokens[4] = torch.randn(16)
    assert torch.equal(head.aggregate(query, tokens, ids, seen), first)
    tokens[2] = torch.randn(16)
    assert not torch.equal(head.aggregate(query, tokens, ids, seen), first)


def test_context_head_keeps_tokens_apart():
    torch.manual_seed(0)
    head = AggregationHead(16, 2)
    tokens = torch.randn(2, 5, 16)
    mixed = head(tokens)
    order = torch.randperm(5)
    torch.testing.assert_close(head(tokens[:, order]), mixed[:, order])  # no positions inside
    assert not torch.allclose(mixed[:, 0], mixed[:, 1])
    changed = tokens.clone()
    changed[0, 4] = torch.randn(16)
    assert not torch.equal(head(changed)[0, 0], mixed[0, 0])  # all hear of all
    assert torch.isfinite(head(tokens[:1, :1])).all()


def test_ablations():
    for aggregate in ('mean', 'max'):
        model = build(
            'DMTJEPA', head=None, neighbours=dict(type='NeighbourTargets', aggregate=aggregate)
        )
        seen = model.inspect(batch(2))
        near, there = neighbour_table((8, 8), 3, wrap=False)
        assert torch.isfinite(seen['target']).all()
        # of some block's first patch, by hand
        image, patch = 1, int(seen['masks'].targets[1, 2, 0])
        tokens = seen['tokens'][image]
        mine = near[patch][there[patch]]
        best = (
            F.cosine_similarity(tokens[mine], tokens[patch][None]).topk(min(4, len(mine))).indices
        )
        chosen = tokens[mine[best]]
        wanted = chosen.mean(0) if aggregate == 'mean' else chosen.amax(0)
        torch.testing.assert_close(seen['target'][1, 2, 0], wanted)
    model = build('DMTJEPA', context_head=False)
    model.loss(batch())['loss_prediction'].backward()
    assert not any(p.requires_grad for p in model.head.parameters())
    with pytest.raises(ValueError, match='needs a head'):
        build('DMTJEPA', head=None)
    with pytest.raises(ValueError, match='nothing uses the head'):
        build(
            'DMTJEPA',
            context_head=False,
            neighbours=dict(type='NeighbourTargets', aggregate='mean'),
        )
    for wrong in (dict(window=4), dict(k=9), dict(border='mirror'), dict(query='mean')):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NeighbourTargets(**wrong)


@pytest.mark.parametrize('aggregate', ['mean', 'max'])
def test_a_patch_without_neighbours_is_its_own_target(aggregate):
    """A block of one patch, where the block ends the neighbourhood."""
    tokens, one = torch.randn(1, 16, 8), torch.tensor([[[5]]])
    masks = BlockMasks(one[:, 0], one, torch.tensor([5]), torch.zeros_like(one))
    targets = NeighbourTargets(border='block', aggregate=aggregate)
    assert torch.equal(targets(tokens, masks, (4, 4), None)[0, 0, 0], tokens[0, 5])


def test_a_window_wider_than_the_torus_is_refused():
    with pytest.raises(ValueError, match='smaller window'):
        NeighbourTargets(window=5, border='wrap').choose(
            torch.randn(1, 12, 8), whole(1, 12), (4, 3)
        )


def test_heads_are_in_the_checkpoint():
    keys = build('DMTJEPA').state_dict()
    assert {'head.norm.weight', 'target.head.norm.weight'} <= set(keys)
    assert torch.equal(keys['head.norm.weight'], keys['target.head.norm.weight'])


def test_choice_is_made_in_float32():
    """Neighbours that differ by less than bfloat16 resolves."""
    base = torch.zeros(1, 9, 64)
    base[..., 0] = 1
    for patch in range(9):
        base[0, patch, 1] = 0.1 + 1e-3 * patch
    with torch.autocast('cpu', torch.bfloat16):
        _, ids, _ = NeighbourTargets(k=1).choose(base, whole(1, 9), (3, 3))
    assert ids[4].item() in (3, 5)
    assert ids[0].item() == 1


def test_the_monitor_tells_targets_that_differ_between_images_only():
    """The image's mean as query gives every patch of an image nearly one target; I-JEPA doesn't."""
    within = {}
    for kind, options in (('IJEPA', {}), ('DMTJEPA', {}), ('patch', dict(query='patch'))):
        if kind != 'IJEPA':
            options = dict(neighbours=dict(type='NeighbourTargets', **options))
        model = build('IJEPA' if kind == 'IJEPA' else 'DMTJEPA', **options)
        model.capture = True
        model.loss(batch(16))
        within[kind] = float(collapse_statistics(model, **model.captured)[-1])
    assert within['DMTJEPA'] < 0.1 < 0.5 < min(within['IJEPA'], within['patch'])
