"""Learning rates that fall with the depth of a layer."""

import pytest
from mmengine.registry import init_default_scope
from torch import nn

from mmjepa.engine.optim import JEPAOptimWrapperConstructor
from mmjepa.models import JEPAViT


class _Classifier(nn.Module):
    def __init__(self, backbones=1):
        super().__init__()
        for i in range(backbones):
            name = f'backbone{i or ""}'
            setattr(self, name, JEPAViT((16, 3, 2, 32), 8, 4, positions='learned'))
        self.head = nn.Linear(16, 5)


def groups(model, **paramwise):
    init_default_scope('mmjepa')
    cfg = dict(type='JEPAOptimWrapper', optimizer=dict(type='AdamW', lr=0.2, weight_decay=0.05))
    return JEPAOptimWrapperConstructor(cfg, paramwise)(model).optimizer.param_groups


@pytest.mark.parametrize('other', [{}, dict(flat_decay_mult=0.0)])
def test_rates_by_depth(other):
    model = _Classifier()
    found = groups(model, layer_decay=0.5, **other)
    by_name = {
        name: group
        for name, p in model.named_parameters()
        for group in found
        if any(p is q for q in group['params'])
    }
    assert sum(len(g['params']) for g in found) == len(list(model.parameters())) == len(by_name)
    rates = {
        'backbone.pos_embed': 0.2 / 16,
        'backbone.patch_embed.proj.weight': 0.2 / 16,
        'backbone.blocks.0.norm1.bias': 0.2 / 8,
        'backbone.blocks.1.attn.qkv.weight': 0.2 / 4,
        'backbone.blocks.2.mlp.fc2.weight': 0.2 / 2,
        'backbone.norm.weight': 0.2,
        'head.bias': 0.2,
    }
    assert {k: by_name[k]['lr'] for k in rates} == pytest.approx(rates)
    assert by_name['head.bias']['weight_decay'] == (0.0 if other else 0.05)
    assert by_name['head.weight']['weight_decay'] == 0.05
    assert len(found) == (10 if other else 5)  # 5 depths, with and without weight decay


def test_a_frozen_backbone():
    model = _Classifier()
    model.backbone.requires_grad_(False)
    (only,) = groups(model, layer_decay=0.75)
    assert only['lr'] == 0.2 and len(only['params']) == 2


def test_bad_input():
    with pytest.raises(ValueError, match=r'layer_decay must be in \(0, 1\], got 1.5'):
        groups(_Classifier(), layer_decay=1.5)
    with pytest.raises(ValueError, match='_Classifier has backbone, backbone1'):
        groups(_Classifier(2), layer_decay=0.5)
    with pytest.raises(ValueError, match='Linear has none'):
        groups(nn.Linear(2, 2), layer_decay=0.5)
