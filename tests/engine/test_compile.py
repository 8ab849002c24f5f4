"""Compiled transformer blocks."""

import copy
from functools import partial

import pytest
import torch
from cases import CASES
from torch._dynamo.testing import CompileCounterWithBackend

from mmjepa.engine import runner as runner_module
from mmjepa.engine.compile import compile_blocks
from mmjepa.engine.config import ConfigError
from mmjepa.models.encoders import JEPAViT
from mmjepa.models.predictors import ViTPredictor


class Pair(torch.nn.Module):
    """Encoder and predictor, as a method has them."""

    def __init__(self, positions='sincos', checkpoint=False):
        super().__init__()
        torch.manual_seed(0)
        kinds = dict(positions=positions, checkpoint_blocks=checkpoint)
        self.encoder = JEPAViT((32, 3, 2, 64), 32, 4, **kinds)
        self.predictor = ViTPredictor((8, 8), 32, channels=32, depth=2, num_heads=4, **kinds)

    def step(self, count):
        """Loss and gradients with ``count`` visible patches."""
        images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        ids = torch.arange(count).expand(3, -1)
        with torch.no_grad():
            target = self.encoder(images)
        hidden = torch.arange(count, count + 9).expand(3, 2, -1)
        found = self.predictor(self.encoder(images, ids), ids, hidden)
        loss = (found - target[:, None, count : count + 9]).square().mean()
        self.zero_grad()
        loss.backward()
        return loss.item(), [p.grad.clone() for p in self.parameters()]


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(backend, counts, **kinds):
    eager, compiled = Pair(**kinds), Pair(**kinds)
    keys = list(compiled.state_dict())
    assert compile_blocks(compiled, backend) == 5
    assert list(compiled.state_dict()) == keys
    for count in counts:
        (loss, grads), (ours, our_grads) = eager.step(count), compiled.step(count)
        assert ours == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(our_grads, grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('backend', 'kinds'),
    [('aot_eager', dict()), ('eager', dict(positions='rotary', checkpoint=True))],
)
def test_graphs_stay_few_while_lengths_vary(backend, kinds):
    counter = CompileCounterWithBackend(backend)
    check(counter, [17], **kinds)
    first = counter.frame_count
    # encoder with and without gradient, and predictor: not one a block
    assert 3 <= first <= 6
    check(counter, [5, 30, 48], **kinds)
    assert counter.frame_count <= first + 1


@pytest.mark.slow  # the C++ compiler takes a minute or more
def test_real_backend_agrees_with_eager():
    check('inductor', [17, 5, 30])


def test_copies_are_eager():
    """An EMA target is a copy; it is compiled by itself where it is part of the model."""
    pair = Pair()
    counter = CompileCounterWithBackend('eager')
    compile_blocks(pair, counter)
    images = torch.randn(2, 3, 32, 32)
    expected = Pair().encoder(images)
    torch.testing.assert_close(copy.deepcopy(pair).encoder(images), expected)
    assert counter.frame_count == 0
    torch.testing.assert_close(pair.encoder(images), expected)
    assert counter.frame_count == 1


def test_models_without_blocks_say_so():
    with pytest.raises(ConfigError, match='compile=True: Linear'):
        compile_blocks(torch.nn.Linear(1, 1))


def test_runner_compiles_and_resumes(tmp_path, monkeypatch):
    """A compiled run, a resumed one and an eager one end with the same weights."""
    case = CASES['IJEPA']
    data = case.make_data(tmp_path / 'data')
    counter = CompileCounterWithBackend('eager')
    monkeypatch.setattr(runner_module, 'compile_blocks', partial(compile_blocks, backend=counter))

    def run(name, load_from=None, **options):
        runner = case.runner(data, tmp_path / name, load_from, **options)
        runner.train()
        return runner.model.state_dict()

    expected = run('eager')
    assert counter.frame_count == 0
    options = {'compile': True, 'default_hooks.checkpoint.by_epoch': False}
    found = run('compiled', **options, **{'default_hooks.checkpoint.interval': 2})
    assert counter.frame_count > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    resumed = run('resumed', str(tmp_path / 'compiled' / 'iter_2.pth'), **options)
    torch.testing.assert_close(resumed, found, rtol=1e-6, atol=1e-7)
