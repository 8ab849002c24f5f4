"""Frozen features: which encoder, which layers, and the cache."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmjepa.evaluation.probes.feature_cache import FeatureCache
from mmjepa.evaluation.probes.features import (
    as_tokens,
    choose_encoder,
    extract_features,
    weights_hash,
    with_layers,
)
from mmjepa.models.encoders import JEPAViT


class Method(nn.Module):
    """What a probe asks of a method."""

    def __init__(self, policy='ema', depth=4):
        super().__init__()
        self.encoder = JEPAViT((16, depth, 2, 32), img_size=8, patch_size=4)
        self.target = nn.Module()
        self.target.policy = policy
        self.target.encoder = JEPAViT((16, depth, 2, 32), img_size=8, patch_size=4)

    def data_preprocessor(self, batch, training):
        assert not training
        return {'inputs': batch}

    def extract_feat(self, inputs):
        return self.encoder(inputs['images'])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Method().eval()


def batches(count=5, size=2):
    images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return [{'images': part} for part in images.split(size)]


def test_the_encoder_that_was_asked_for(model):
    online, target = model.encoder, model.target.encoder
    assert choose_encoder(model, 'online') == 'online' and model.encoder is online
    assert choose_encoder(model, 'auto', exported=True) == 'exported' and model.encoder is online
    assert choose_encoder(model, 'auto') == 'target' and model.encoder is target
    with pytest.raises(ValueError, match="'stop_grad', only an EMA or a frozen one"):
        choose_encoder(Method('stop_grad'), 'target')
    assert choose_encoder(Method('frozen'), 'auto') == 'online'
    assert choose_encoder(Method('frozen'), 'target') == 'target'
    with pytest.raises(ValueError, match='leave out --which target'):
        choose_encoder(model, 'target', exported=True)


def test_last_layers_side_by_side_and_back(model):
    images = batches()[0]['images']
    expected = model.encoder.layers(images, (0, 1, 2, 3))
    plain = model.extract_feat({'images': images})
    four = with_layers(model, 4).extract_feat({'images': images})
    assert torch.equal(four, torch.cat(expected, -1))
    assert torch.equal(four[..., -16:], plain)
    assert torch.equal(with_layers(model, 1).extract_feat({'images': images}), plain)
    with pytest.raises(ValueError, match='encoder of 2: use --layers 1'):
        with_layers(Method(depth=2), 4)
    with pytest.raises(ValueError, match='Identity gives no single layers'):
        with_layers(SimpleNamespace(encoder=nn.Identity()), 4)


def pooled(model, count=5, **options):
    return extract_features(model, batches(), count, {'pooled': 1}, **options)['pooled']


def test_features_are_in_order_and_averaged_in_float32(model):
    expected = torch.cat([model.extract_feat(batch) for batch in batches()]).detach()
    found = extract_features(model, batches(size=3), 5, {'tokens': 1, 'pooled': 1})
    assert found['tokens'].dtype == found['pooled'].dtype == np.float16
    assert np.allclose(found['tokens'], expected.numpy(), atol=2e-3)
    assert np.allclose(found['pooled'], expected.mean(1).numpy(), atol=2e-3)
    # one pass for both, each with its own layers
    both = extract_features(model, batches(size=3), 5, {'tokens': 1, 'pooled': 4})
    assert np.array_equal(both['tokens'], found['tokens'])
    assert both['pooled'].shape == (5, 64)
    assert np.array_equal(both['pooled'][:, -16:], found['pooled'])
    rough = pooled(model, amp=True)
    assert 0 < np.abs(rough.astype(float) - found['pooled']).max() < 0.05
    for count, message in ((6, 'gave 5 of 6'), (4, 'at number 4 of 4')):
        with pytest.raises(ValueError, match=message):
            pooled(model, count)


def test_maps_and_vectors_become_tokens():
    grid = torch.arange(24.0).view(1, 2, 3, 4)
    assert torch.equal(as_tokens(grid)[0, 5], grid[0, :, 1, 1])
    assert as_tokens(torch.zeros(3, 7)).shape == (3, 1, 7)
    assert as_tokens(torch.zeros(3, 5, 7)).shape == (3, 5, 7)


@pytest.mark.parametrize(('value', 'message'), [(float('nan'), 'NaN or Inf'), (1e6, 'beyond half')])
def test_features_that_cannot_be_kept(model, value, message):
    model.encoder.norm.bias.data.fill_(value)
    with pytest.raises(ValueError, match=message):
        pooled(model)


def test_weights_hash_sees_every_tensor(model):
    before = weights_hash(model)
    assert before == weights_hash(model)
    for tensor in model.encoder.state_dict().values():
        tensor.view(-1)[0] += 1e-3
        after = weights_hash(model)
        assert after != before
        before = after
    assert weights_hash(with_layers(model, 1)) == before


def test_cache_gives_the_same_bits_and_sees_changes(model, tmp_path):
    cache, calls = FeatureCache(tmp_path), []

    def compute(makers):
        calls.append(list(makers))
        return extract_features(model, batches(), 5, dict.fromkeys(makers, 1), makers)

    def get(where, **descriptions):
        return where.get(descriptions, 5, compute)

    fresh = get(FeatureCache(None), pooled={'a': 1})['pooled']
    first, again = (get(cache, pooled={'a': 1})['pooled'] for _ in range(2))
    assert len(calls) == 2 and (cache.hits, cache.misses) == (1, 1)
    assert isinstance(again, np.memmap) and not again.flags.writeable
    assert np.array_equal(fresh, first) and np.array_equal(first, again)
    get(cache, pooled={'a': 2})
    assert len(calls) == 3
    found = get(cache, pooled={'a': 2}, tokens={'b': 1})
    assert calls[3:] == [['tokens']]  # alone: the other is there
    assert np.array_equal(found['pooled'], first) and found['tokens'].shape == (5, 4, 16)
    names = sorted(path.suffix for path in tmp_path.iterdir())
    assert names == ['.json'] * 3 + ['.npy'] * 3


def test_damaged_and_interrupted_files_are_not_used(tmp_path):
    def compute(makers):
        out = makers['x']((3, 2), np.float16)
        out[:] = 1
        return {'x': out}

    def interrupted(makers):
        makers['x']((3, 2), np.float16)
        raise KeyboardInterrupt

    cache = FeatureCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.get({'x': {}}, 3, interrupted)
    assert not list(tmp_path.iterdir())
    cache.get({'x': {}}, 3, compute)
    path = next(tmp_path.glob('*.npy'))
    path.write_bytes(path.read_bytes()[:-4])
    assert np.array_equal(cache.get({'x': {}}, 3, compute)['x'], np.ones((3, 2)))
    assert cache.misses == 3


def test_a_full_disk_says_how_much_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda path: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match=r'need 0\.0 GiB.*--cache-dir'):
        FeatureCache(tmp_path).get({'x': {}}, 3, lambda makers: makers['x']((3, 2), np.float16))
