"""Classification runs: exact resume, and what is and what isn't learned."""

import pytest
import torch
from cls_scenes import configured, write_colours
from toy_engine import StopAt, assert_same, everything

from mmjepa.engine.runner import build_runner

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='a rule on CPU; hide the GPUs with CUDA_VISIBLE_DEVICES='
)


@pytest.fixture(scope='module')
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp('colours'))


def test_resume_is_exact_with_any_number_of_workers(colours, tmp_path):
    """Mixing, drop path, crops and RandAugment included."""

    def run(folder, resume=False, **options):
        fixed = {'max_iters': 4, 'val_interval': 100, 'default_hooks.checkpoint.interval': 3}
        options = {**fixed, 'drop_path': 0.5, **options}
        stem = 'vit_tiny4_cifar10_finetune'
        return build_runner(configured(stem, colours, tmp_path / folder, resume, **options))

    whole = run('whole')
    whole.train()
    expected = everything(whole)
    other = run('other', seed=4)
    other.train()
    with pytest.raises(AssertionError):
        assert_same(expected['weights'], everything(other)['weights'])
    for workers in (0, 2):
        first = run(f'w{workers}', num_workers=workers)
        first.register_hook(StopAt(3))
        first.train()
        torch.manual_seed(99)
        resumed = run(f'w{workers}', resume=True, num_workers=workers)
        resumed.train()
        assert_same(expected, everything(resumed), f'{workers} workers')


def test_colours_are_learned_in_20_steps_and_shuffled_labels_are_not(colours, tmp_path):
    options = dict(max_iters=20, batch_size=12, lr=3e-3, mixup=0.2, cutmix=0, val_interval=100)
    shuffled = write_colours(tmp_path / 'shuffled', shuffled=True)
    found = []
    for folder, root in (('right', colours), ('wrong', shuffled)):
        cfg = configured('vit_tiny4_cifar10_finetune', root, tmp_path / folder, **options)
        del cfg.train_dataloader.dataset.pipeline[2]  # RandAugment changes colours
        runner = build_runner(cfg)
        runner.train()
        found.append(runner.val_loop.run()['accuracy/top1'])
    assert found[0] == 100
    assert 20 < found[1] < 80  # what tells the colours alone is right in half of the cases
