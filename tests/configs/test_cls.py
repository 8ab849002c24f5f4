"""Classification configs: short, they follow from their variables, train and evaluate."""

import ast

import pytest
import torch
from cls_scenes import FOLDER, configured, pretrained, write_colours
from mmengine.registry import init_default_scope

from mmjepa.engine.config import check_config, load_config
from mmjepa.engine.runner import build_runner
from mmjepa.registry import MODELS

FILES = sorted(FOLDER.glob('*.py'))
cpu_only = pytest.mark.skipif(
    torch.cuda.is_available(), reason='a rule on CPU; hide the GPUs with CUDA_VISIBLE_DEVICES='
)


def name(path):
    return path.stem


@pytest.mark.parametrize('path', FILES, ids=name)
def test_config_loads_and_is_short(path, monkeypatch):
    told = []
    monkeypatch.setattr('mmjepa.engine.config.print_log', lambda text, **_: told.append(text))
    check_config(load_config(path))
    assert told == [], 'a variable has no effect'
    text = path.read_text()
    assert 'tools/train.py' in text or 'tools/dist_train.sh' in text
    assert len([line for line in text.split('"""')[2].splitlines() if line.strip()]) <= 40
    first = next(n for n in ast.parse(text).body if isinstance(n, ast.Assign))
    assert all(
        base.startswith(('./_base_/', '../_base_/')) for base in ast.literal_eval(first.value)
    )


@pytest.mark.parametrize('path', FILES, ids=name)
def test_variables_reach_everything(path):
    options = dict(data_root='/elsewhere', batch_size=37, num_workers=0, max_epochs=3, seed=9)
    cfg = load_config(path, dict(options, num_classes=11, subset='list.txt', img_size=112))
    assert cfg.model.num_classes == 11 and cfg.model.backbone.img_size == 112
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert (loader.batch_size, loader.num_workers, loader.persistent_workers) == (37, 0, False)
        assert loader.dataset.data_root == '/elsewhere' and loader.dataset.num_classes == 11
        assert loader.dataset.pipeline[0].size == 112
    assert cfg.train_dataloader.dataset.subset == 'list.txt'
    assert cfg.train_dataloader.dataset.fraction == 1
    assert cfg.train_cfg.max_epochs == 3 and cfg.randomness.seed == 9
    cfg = load_config(path, dict(max_iters=100, train_fraction=0.25, jepa_checkpoint='a.pth'))
    assert cfg.train_cfg.max_iters == 100 and cfg.custom_hooks[0].checkpoint == 'a.pth'
    assert cfg.train_dataloader.dataset.fraction == 0.25
    assert 'fraction' not in cfg.val_dataloader.dataset
    if 'linear' not in path.stem:
        cfg = load_config(path, dict(lr=0.5, weight_decay=0.25, layer_decay=0.125))
        assert cfg.optim_wrapper.optimizer.lr == 0.5
        assert cfg.optim_wrapper.optimizer.weight_decay == 0.25
        assert cfg.optim_wrapper.paramwise_cfg.layer_decay == 0.125


def test_recipes():
    """The specification's numbers, and the parameters that learn."""
    huge = load_config(FOLDER / 'vit_huge14_in1k_1percent.py')
    assert huge.train_dataloader.dataset.fraction == 0.01 and 'mixing' not in huge.model
    assert (huge.lr, huge.weight_decay, huge.layer_decay) == (3e-5, 0.4, 0.75)
    linear = load_config(FOLDER / 'vit_base16_in1k_linear.py')
    assert linear.optim_wrapper.optimizer.type == 'LARS' and linear.model.frozen
    assert 'RandAugmentImage' not in str(linear.train_dataloader)
    base = load_config(FOLDER / 'vit_base16_in1k_finetune.py')
    assert base.model.mixing.mixup == 0.8 and base.model.mixing.cutmix == 1.0
    assert base.val_dataloader.dataset.pipeline[0].resize == 256
    init_default_scope('mmjepa')
    learn = []
    for cfg in (base, linear, huge):
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        learn.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    encoder, head = 85_646_592, 768 * 1000 + 1000  # a norm before the mean, or behind it
    assert learn[:2] == [encoder + head, head]
    assert learn[2] == 630_434_560 + 1280 * 1000 + 1000


@cpu_only
@pytest.mark.parametrize('path', FILES, ids=name)
def test_training_from_a_checkpoint_and_evaluation(path, repo, tmp_path):
    root = write_colours(tmp_path / 'data', ('train', 'test' if 'cifar' in path.stem else 'val'))
    options = dict(patch_size=4, img_size=32) if 'in1k' in path.stem else {}
    source = pretrained(repo, root, tmp_path / 'jepa.pth')
    cfg = configured(
        path.stem,
        root,
        tmp_path / 'work',
        max_iters=2,
        jepa_checkpoint=str(tmp_path / 'jepa.pth'),
        **{'default_hooks.checkpoint.interval': 2, **options},
    )
    runner = build_runner(cfg)
    runner.train()
    target = source.target.encoder.state_dict()
    found = runner.model.backbone.state_dict()
    near = max(float((found[k] - target[k]).abs().max()) for k in found)
    if cfg.model.get('frozen'):
        assert near == 0
    else:  # two steps of AdamW away
        assert 0 < near < 3 * cfg.lr
        rates = {round(g['lr'] / cfg.lr, 9) for g in runner.optim_wrapper.param_groups}
        assert len(rates) == 4  # patches, two blocks, and the rest
    metrics = runner.val_loop.run()
    assert 0 <= metrics['accuracy/top1'] <= 100
    again = build_runner({**cfg, 'load_from': str(tmp_path / 'work/iter_2.pth'), 'resume': False,
                          'experiment_name': f'test_{id(cfg)}'})  # fmt: skip
    assert again.test() == metrics


def test_missing_data_says_what_to_do(tmp_path):
    from mmjepa.registry import DATASETS

    init_default_scope('mmjepa')
    cfg = load_config(FILES[0], dict(data_root=str(tmp_path / 'absent')))
    with pytest.raises(FileNotFoundError, match='ILSVRC2012_img_train'):
        DATASETS.build(cfg.train_dataloader.dataset)
    cfg = load_config(FILES[0], dict(data_root=str(write_colours(tmp_path / 'two'))))
    with pytest.raises(ValueError, match='2 class folders, 1000 needed: blue, red'):
        DATASETS.build(cfg.train_dataloader.dataset)
