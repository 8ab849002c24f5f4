"""Heads that are trained jointly: as good as alone, right against torch's own optimizers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmjepa.evaluation.functional import attentive, knn_predict, standardisation
from mmjepa.evaluation.functional.attentive import AttentiveHeads, AttentiveSpec, fit_attentive
from mmjepa.evaluation.functional.heads import (
    HeadSchedule,
    HeadSpec,
    batch_order,
    cosine_factor,
    fit_heads,
)
from mmjepa.evaluation.functional.knn import knn_predict_each

SHORT = HeadSchedule(epochs=3, batch_size=16)


def blobs(count=90, channels=6, classes=3, spread=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, channels, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, channels, generator=generator), labels


def token_blobs(count=90, tokens=5, channels=8, seed=0):
    """The class stands in one token of five, which channel 0 marks; in the mean it is noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, tokens, channels, generator=generator)
    x[..., 1] *= 6
    labels = torch.arange(count) % 2
    places = torch.randint(tokens, (count,), generator=generator)
    signal = torch.zeros(count, channels)
    signal[:, 0], signal[:, 1] = 6.0, 6.0 * (2 * labels - 1)
    x[torch.arange(count), places] = signal
    return x, labels


def weights_by_spec(groups):
    found = {}
    for group in groups:
        weight = group.weight.view(-1, *group.shape)
        for i, spec in enumerate(group.specs):
            found[spec] = weight[:, i]
    return found


SPECS = [
    HeadSpec(channels, norm, lr, decay)
    for channels in (None, 2)
    for norm in (False, True)
    for lr, decay in ((0.05, 0.0), (0.5, 0.01))
]


def test_joint_heads_equal_heads_trained_alone():
    x, y = blobs()
    joint = weights_by_spec(fit_heads(x, y, 3, SPECS, SHORT, seed=3))
    assert set(joint) == set(SPECS)
    for spec in SPECS:
        alone = weights_by_spec(fit_heads(x, y, 3, [spec], SHORT, seed=3))[spec]
        assert torch.allclose(joint[spec], alone, atol=1e-6)
    assert len({tuple(w.flatten().tolist()) for w in joint.values()}) == len(SPECS)


@pytest.mark.parametrize('spec', [SPECS[1], SPECS[7]])
def test_heads_equal_torch_sgd(spec):
    x, y = blobs()
    group = fit_heads(x, y, 3, [spec], SHORT, seed=3)[0]
    mean, std = standardisation(x)
    inputs = ((x - mean) / std if spec.normalise else x)[:, -(spec.channels or 6) :]
    head = nn.Linear(inputs.shape[1], 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(
        [{'params': head.weight, 'weight_decay': spec.weight_decay}, {'params': head.bias}],
        lr=spec.lr, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = SHORT.steps(len(x))
    for step, rows in enumerate(batch_order(len(x), SHORT, 3)):
        for settings in optimizer.param_groups:
            settings['lr'] = spec.lr * cosine_factor(step, steps)
        optimizer.zero_grad()
        F.cross_entropy(head(inputs[rows]), y[rows]).backward()
        optimizer.step()
    assert step + 1 == steps == 18
    assert torch.allclose(group.weight, head.weight.T, atol=1e-5)
    assert torch.allclose(group.bias, head.bias, atol=1e-5)
    assert torch.equal(group.predict(x)[0], head(inputs).argmax(1))


def test_a_head_that_diverges_harms_no_other():
    x, y = blobs()
    x[:, 0] *= 1e4
    wild, tame = HeadSpec(lr=1e30, weight_decay=1.0), HeadSpec(None, True, 0.1)
    other_wild = HeadSpec(None, True, 1e38, 1.0)
    groups = fit_heads(x, y, 3, [wild, tame, other_wild], HeadSchedule(epochs=10, batch_size=16))
    found = {s: p for g in groups for s, p in zip(g.specs, g.predict(x), strict=True)}
    assert (found[wild] == -1).all()
    assert (found[other_wild] == -1).all()
    assert (found[tame] == y).float().mean() > 0.9


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'specs': []}, 'at least one head'),
        ({'labels': torch.zeros(3).long()}, 'N > 0'),
        ({'feats': torch.full((90, 6), float('nan'))}, 'finite'),
        ({'specs': [HeadSpec(channels=7)]}, '7 channels; there are 6'),
    ],
)
def test_heads_refuse(change, message):
    x, y = blobs()
    with pytest.raises(ValueError, match=message):
        fit_heads(**{**dict(feats=x, labels=y, num_classes=3, specs=[HeadSpec()]), **change})
    with pytest.raises(ValueError, match='at least 1'):
        HeadSchedule(epochs=0)


class Plain(nn.Module):
    """The attentive probe as it is usually written."""

    def __init__(self, weights, num_heads, depth):
        super().__init__()
        self.names = {name: name.replace('.', '_') for name in weights}
        for name, value in weights.items():
            setattr(self, self.names[name], nn.Parameter(value[0].detach().clone()))
        self.num_heads, self.depth = num_heads, depth

    def norm(self, x, name):
        w = getattr(self, f'{name}_scale'), getattr(self, f'{name}_bias')
        return F.layer_norm(x, x.shape[-1:], *w, eps=1e-5)

    def linear(self, x, name):
        return F.linear(x, getattr(self, name).T, getattr(self, f'{name}_bias'))

    def mlp(self, x, block):
        hidden = F.gelu(self.linear(self.norm(x, f'{block}norm2'), f'{block}mlp_in'))
        return self.linear(hidden, f'{block}mlp_out')

    def forward(self, tokens):
        x = tokens
        b, n, d = x.shape
        for i in range(self.depth - 1):
            block = f'blocks_{i}_'
            qkv = self.linear(self.norm(x, f'{block}norm1'), f'{block}qkv')
            q, k, v = (
                part.view(b, n, self.num_heads, -1).transpose(1, 2) for part in qkv.split(d, -1)
            )
            share = (q @ k.transpose(-1, -2) / (d / self.num_heads) ** 0.5).softmax(-1)
            x = x + self.linear((share @ v).transpose(1, 2).flatten(2), f'{block}proj')
            x = x + self.mlp(x, block)
        x = self.norm(x, 'norm1')
        key = torch.einsum('bnc,hdc->bhnd', x, self.key)
        value = torch.einsum('bnc,hcd->bhnd', x, self.value)
        query = self.query[None, :, None].expand(b, -1, -1, -1)
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)
        y = self.query.flatten() + found + self.value_bias
        return self.linear(y + self.mlp(y, ''), 'classes')


@pytest.mark.parametrize('depth', [1, 3])
def test_attentive_equals_plain_attention_and_torch_adamw(depth, monkeypatch):
    x, y = token_blobs(48)
    spec = AttentiveSpec(3e-3, 0.1)
    heads = AttentiveHeads([spec], 8, 2, 2, depth, seed=4)
    plain = Plain(heads.weights, 2, depth)
    named = dict(plain.named_parameters())
    assert len(named) == 14 + 12 * (depth - 1)
    for name, value in heads.weights.items():  # larger, so that nothing is next to nothing
        grown = value[0].detach() * (1 if '_scale' in name else 5) + 0.1
        value.data[0] = named[plain.names[name]].data[:] = grown
    assert torch.allclose(heads.logits(x)[0], plain(x), atol=1e-5)
    kept = [p for n, p in named.items() if 'bias' in n or 'scale' in n]
    others = [p for n, p in named.items() if 'bias' not in n and 'scale' not in n]
    optimizer = torch.optim.AdamW(
        [{'params': others, 'weight_decay': 0.1}, {'params': kept, 'weight_decay': 0.0}], lr=3e-3
    )
    for step in range(4):
        if step == 2:  # in parts of 7 samples: the same
            monkeypatch.setattr(attentive, 'ROOM', 7 * 5 * (2 * 8 + 2 + 20 * 8 * (depth - 1)))
            assert heads._room(x) == 7
        heads.step(x, y, 1.0)
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    for name, value in heads.weights.items():
        assert torch.allclose(value[0], named[plain.names[name]], atol=3e-4), name


@pytest.mark.parametrize('depth', [1, 2])
def test_attentive_probes_do_not_mind_the_order_of_tokens(depth):
    x, _ = token_blobs(20)
    heads = AttentiveHeads([AttentiveSpec(), AttentiveSpec()], 8, 2, 2, depth, seed=4)
    assert torch.allclose(heads.logits(x), heads.logits(x[:, [3, 0, 4, 1, 2]]), atol=1e-5)


def test_views_are_averaged_as_softmaxes():
    x, _ = token_blobs(12)
    heads = AttentiveHeads([AttentiveSpec(), AttentiveSpec(1e-2)], 8, 2, 3, seed=4)
    for weight in heads.weights.values():
        weight.data.normal_()
    views = x.unflatten(0, (4, 3))  # 4 samples of 3 views
    found = heads.predict(lambda rows: (views[rows], rows), torch.arange(4), batch_size=3)
    logits = heads.logits(x).unflatten(1, (4, 3))
    assert torch.equal(found, logits.softmax(-1).mean(2).argmax(-1))
    assert not torch.equal(found, logits.mean(2).argmax(-1))


def test_self_attention_reads_what_stands_beside():
    """The class is whether two tokens are alike: one query alone looks at each by itself."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(600, 8, generator=generator).sign()
    y = torch.randint(2, (600,), generator=generator)
    other = torch.randn(600, 8, generator=generator).sign()
    x = torch.stack([first, torch.where(y[:, None] == 1, first, other)], 1)
    x = torch.cat([x, torch.tensor([1.0, -1.0]).view(1, 2, 1).expand(600, 2, 2)], -1)

    def top1(depth):
        heads = fit_attentive(
            lambda rows: (x[rows], y[rows]), torch.arange(500), 2, [AttentiveSpec(3e-3)], 2,
            HeadSchedule(epochs=25, batch_size=50), depth=depth,
        )  # fmt: skip
        found = heads.predict(lambda rows: (x[rows], y[rows]), torch.arange(500, 600))
        return float((found[0] == y[500:]).float().mean())

    assert top1(2) > 0.85
    assert top1(1) < 0.75


def test_blocks_in_bfloat16_are_near():
    x, _ = token_blobs(20)
    rough, exact = (
        AttentiveHeads([AttentiveSpec()], 8, 2, 2, 3, seed=4, amp=amp) for amp in (True, False)
    )
    apart = (rough.logits(x) - exact.logits(x)).abs().max()
    assert 0 < float(apart.detach()) < 0.02


def test_attentive_probes_find_the_token_and_equal_ones_trained_alone():
    x, y = token_blobs(300)
    test_x, test_y = token_blobs(100, seed=1)

    def read(rows):
        return x[rows], y[rows]

    schedule = HeadSchedule(epochs=20, batch_size=32)
    specs = [AttentiveSpec(1e-3), AttentiveSpec(1e-2), AttentiveSpec(1e-2, 0.2)]
    rows = torch.arange(300)
    joint = fit_attentive(read, rows, 2, specs, 2, schedule, seed=1)
    found = joint.predict(lambda r: (test_x[r], test_y[r]), torch.arange(100), batch_size=35)
    assert (found[1] == test_y).float().mean() > 0.95
    mean_head = fit_heads(x.mean(1), y, 2, [HeadSpec(None, True, 0.3)])[0]
    assert (mean_head.predict(test_x.mean(1))[0] == test_y).float().mean() < 0.8
    few = HeadSchedule(epochs=2, batch_size=32)  # before rounding errors can grow
    joint = fit_attentive(read, rows, 2, specs, 2, few, seed=1)
    for i, spec in enumerate(specs):
        alone = fit_attentive(read, rows, 2, [spec], 2, few, seed=1)
        for name, value in alone.weights.items():
            assert torch.allclose(value[0], joint.weights[name][i], atol=1e-4), name
    with pytest.raises(ValueError, match='8 channels cannot be split over 3'):
        AttentiveHeads(specs, 8, 3, 2)
    with pytest.raises(ValueError, match='got depth 0'):
        AttentiveHeads(specs, 8, 2, 2, depth=0)
    with pytest.raises(ValueError, match='0 samples'):
        fit_attentive(read, rows[:0], 2, specs, 2)


def test_knn_of_several_k_is_that_of_each():
    train, labels = blobs(100, spread=2.0)
    test, _ = blobs(40, spread=2.0, seed=1)
    found = knn_predict_each(train, labels, test, (3, 20, 500), chunk_size=16)
    for k, classes in found.items():
        assert torch.equal(classes, knn_predict(train, labels, test, k))
    assert not torch.equal(found[3], found[500])
    with pytest.raises(ValueError, match='ks is empty'):
        knn_predict_each(train, labels, test, ())


def test_knn_equals_a_loop():
    train, labels = blobs(50, spread=2.0)
    test, _ = blobs(20, spread=2.0, seed=1)
    for query, found in zip(test, knn_predict(train, labels, test, 7), strict=True):
        similar = torch.stack([F.cosine_similarity(query, row, dim=0) for row in train])
        votes = [0.0, 0.0, 0.0]
        for i in similar.argsort(descending=True)[:7].tolist():
            votes[labels[i]] += float((similar[i] / 0.07).double().exp())
        assert int(found) == votes.index(max(votes))
