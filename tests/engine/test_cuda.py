"""What only a GPU can show; every other test of the runner also runs there when there is one."""

import pytest
import torch
from cases import CASES

pytestmark = pytest.mark.cuda


@pytest.fixture
def case(request, tmp_path):
    case = CASES[getattr(request, 'param', 'ADLJEPA')]
    case.root = case.make_data(tmp_path / 'toy')
    return case


METHODS = pytest.mark.parametrize(
    'case', ['ADLJEPA', 'IJEPA', 'DMTJEPA', 'VJEPA', 'SALT'], indirect=True
)


@METHODS
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'optim_wrapper.amp': 'bf16'},
        {'optim_wrapper.type': 'JEPAFp16OptimWrapper', 'optim_wrapper.dtype': 'float16'},
    ],
    ids=['fp32', 'bf16', 'fp16'],
)
def test_training(case, tmp_path, options):
    runner = case.runner(case.root, tmp_path / 'w', max_iters=6, num_workers=2, **options)
    target = runner.bare_model.target
    before = [p.clone() for p in target.encoder.parameters()]
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 6
    assert all(torch.isfinite(torch.tensor(losses)))
    assert all(p.is_cuda for p in runner.bare_model.parameters())
    pairs = zip(before, target.encoder.parameters(), strict=True)
    same = [torch.equal(a.cpu(), b.cpu()) for a, b in pairs]
    assert all(same) != target.moves


@METHODS
def test_first_loss_equals_the_cpu(case):
    """Same weights, samples and masks; spconv's kernels against its CPU ones."""
    model = case.model(case.root)
    on_cpu = model.loss(**case.batch(model, case.root))
    model.cuda()
    on_gpu = model.loss(**case.batch(model, case.root))
    for key, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[key].cpu(), value, rtol=1e-2, atol=1e-3)


def test_nonfinite_loss_is_seen_one_iteration_late(case, tmp_path):
    from mmjepa.engine.hooks.loss_guard import NonFiniteLossError

    runner = case.runner(case.root, tmp_path / 'w', max_iters=4)
    with torch.no_grad():
        runner.bare_model.mask_token.fill_(float('nan'))
    with pytest.raises(NonFiniteLossError, match='iteration 0'):
        runner.train()
    assert list((tmp_path / 'w').glob('nonfinite*.pth'))
    assert not list((tmp_path / 'w').glob('iter_*.pth'))


def test_sync_batch_norm_of_one_process(case):
    from mmengine.model import convert_sync_batchnorm

    torch.distributed.init_process_group(
        'nccl', init_method='tcp://127.0.0.1:29533', rank=0, world_size=1
    )
    try:
        model = case.model(case.root).cuda()
        data = case.batch(model, case.root)
        plain = model.loss(**data)
        synced = convert_sync_batchnorm(model, 'torch').cuda().train()
        with_sync = synced.loss(**data)
        for key, value in plain.items():
            torch.testing.assert_close(with_sync[key], value, rtol=1e-3, atol=1e-4)
    finally:
        torch.distributed.destroy_process_group()
