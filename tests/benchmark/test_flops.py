"""FLOPs of a step."""

import pytest
import torch
from cases import CASES
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmjepa.benchmark.flops import (
    benchmark_flops,
    count_loss,
    counting_model,
    paper_flops,
)
from mmjepa.benchmark.synthetic import synthetic_batch

DIM, DEPTH, MLP, NARROW = 64, 2, 128, 32
SMALL = dict(arch=[DIM, DEPTH, 2, MLP], predictor_depth=1, predictor_width=NARROW, batch_size=3)


def blocks(images, tokens, dim, mlp, depth):
    """Linear layers and attention of a transformer on (images, tokens, dim)."""
    linear = 2 * tokens * dim * (3 * dim + dim + 2 * mlp)
    return images * depth * (linear + 4 * tokens**2 * dim)


def prepared(model, cfg, seed=0):
    return model.data_preprocessor(synthetic_batch(cfg, model, seed), True)['inputs']


@pytest.fixture
def ijepa(tmp_path):
    """Config and counting model."""
    cfg = CASES['IJEPA'].load(tmp_path, **SMALL)
    return cfg, counting_model(cfg)


def test_formula_of_a_vit(ijepa):
    cfg, model = ijepa
    inputs = prepared(model, cfg)
    masks = model.mask_generator(inputs['seeds'], (8, 8))
    seen, hidden = masks.context.shape[1], masks.targets.shape[2]
    patches = 2 * 3 * 4 * 4 * DIM  # of one token
    encoder = 3 * seen * patches
    deep = blocks(3, seen, DIM, MLP, DEPTH)
    narrow = blocks(3 * 4, seen + hidden, NARROW, 4 * NARROW, 1)
    narrow += 3 * seen * 2 * DIM * NARROW + 3 * 4 * hidden * 2 * NARROW * DIM
    counted = count_loss(model, inputs)
    # nothing asks for the gradient of pixels
    assert counted['encoder'] == (encoder + deep, encoder + 2 * deep)
    assert counted['predictor'] == (narrow, 2 * narrow)
    assert counted['target'] == (3 * 64 * patches + blocks(3, 64, DIM, MLP, DEPTH), 0)
    assert counted.keys() == {'encoder', 'predictor', 'target'}


@pytest.mark.parametrize('name', ['IJEPA', 'DMTJEPA', 'ADLJEPA'])
def test_as_torch_counts_the_real_step(name, tmp_path):
    """Forward and backward pass that really ran, attention as plain products."""
    case = CASES[name]
    root = case.make_data(tmp_path / 'data')
    options = {'model.encoder.backend': 'rulebook'} if name == 'ADLJEPA' else {}
    model = case.model(root, **options)
    inputs = case.batch(model, root)['inputs']
    ours = sum(map(sum, count_loss(model, inputs).values()))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sum(v for k, v in model.loss(inputs).items() if 'loss' in k).backward()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02 if name == 'ADLJEPA' else 1e-9)


def test_every_kernel_counts_the_same(ijepa):
    """Fused attention, plain products in bfloat16, checkpointed blocks, and no numbers at all."""
    from mmjepa.registry import MODELS

    cfg, model = ijepa
    inputs = prepared(model, cfg)
    expected = count_loss(model, inputs)
    cfg.model.encoder.checkpoint_blocks = True
    real = MODELS.build(cfg.model)
    real_inputs = prepared(real, cfg)
    assert count_loss(real, real_inputs) == expected
    with torch.autocast('cpu', torch.bfloat16):
        assert count_loss(real, real_inputs) == expected
    real.target.requires_grad_(True)
    assert count_loss(real, real_inputs)['target'][1] == 0  # run without gradient


@pytest.mark.cuda
def test_fused_attention_of_a_gpu_counts_the_same(ijepa):
    from mmjepa.registry import MODELS

    cfg, model = ijepa
    real = MODELS.build(cfg.model).cuda()
    with torch.autocast('cuda', torch.bfloat16):
        assert count_loss(real, prepared(real, cfg)) == count_loss(model, prepared(model, cfg))


def test_huge_model_takes_no_memory(repo):
    path = repo / 'configs' / 'ijepa' / 'vit_huge14_in1k.py'
    before = torch.get_rng_state()
    report = benchmark_flops(str(path), dict(batch_size=2, max_iters=10), draws=1)
    assert torch.equal(torch.get_rng_state(), before)
    tokens, dim, mlp = 256, 1280, 5120
    target = 2 * (tokens * 2 * 3 * 14 * 14 * dim) + blocks(2, tokens, dim, mlp, 32)
    assert report.step['target'] == (target, 0)
    assert report.steps == 10
    assert f'{10 * report.total:.4g}' in report.text().splitlines()[-1]


def test_length_of_the_run(repo, tmp_path):
    """From the data where they are; else the report says that it is not known."""
    path = str(repo / 'configs' / 'ijepa' / 'vit_tiny4_cifar10.py')
    options = dict(SMALL, data_root=str(tmp_path / 'none'), num_workers=0, max_epochs=5)
    assert 'max_iters=N' in benchmark_flops(path, options, draws=1).text()
    root = CASES['IJEPA'].make_data(tmp_path / 'data')
    report = benchmark_flops(path, options | dict(data_root=str(root)), draws=1)
    assert report.steps == 5 * (7 // 3)


BILLION = 1e9
SIZES = dict(L=0.303885, H=0.631648, g=1.012174, G=1.843924)
PREDICTORS = dict(L=0.022083, H=0.022181, g=0.022230, G=0.022329)


def _run(steps, tokens, encoder, predictor, target):
    step = paper_flops(encoder * BILLION, predictor * BILLION, target * BILLION, tokens, 3072)
    return steps * sum(map(sum, step.values())) / 1e21


@pytest.mark.parametrize(('size', 'total'), [('L', 1.19), ('H', 1.50), ('g', 1.85), ('G', 2.62)])
def test_table_of_salt(size, total):
    """arXiv 2509.24317: 80k steps of a ViT-L teacher, 160k of its student."""
    teacher = _run(80_000, 1568, SIZES['L'], 0.022, 0)
    student = _run(160_000, 1568, SIZES[size], PREDICTORS[size], SIZES['L'])
    assert teacher == pytest.approx(0.241, abs=0.002)
    if size == 'L':
        assert student == pytest.approx(0.951, abs=0.003)
    assert teacher + student == pytest.approx(total, abs=0.006)


@pytest.mark.parametrize(('size', 'total'), [('L', 1.86), ('H', 3.45), ('g', 5.29)])
def test_table_of_vjepa2(size, total):
    """240k steps at 256 pixels, an EMA target as large as the encoder."""
    spent = _run(240_000, 2048, SIZES[size], PREDICTORS[size], SIZES[size])
    assert spent == pytest.approx(total, abs=0.015)


def test_papers_convention_of_a_config(repo):
    path = str(repo / 'configs' / 'salt' / 'student_vit_large.py')
    report = benchmark_flops(path, dict(batch_size=3072, max_iters=160_000), 'paper')
    assert report.total * report.steps / 1e21 == pytest.approx(0.951, abs=0.003)
    assert report.step['target'][1] == 0


def test_the_papers_convention_is_for_video(repo):
    from mmjepa.engine.config import ConfigError

    with pytest.raises(ConfigError, match='IJEPA.*counted'):
        benchmark_flops(
            str(repo / 'configs' / 'ijepa' / 'vit_tiny4_cifar10.py'), convention='paper'
        )


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="'counted' or 'paper'"):
        benchmark_flops('configs/ijepa/vit_base16_in1k.py', convention='papers')
