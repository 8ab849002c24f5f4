"""Whole training steps, measured."""

import pytest
from cases import CASES

from mmjepa.benchmark.flops import benchmark_flops
from mmjepa.benchmark.kernels import PRODUCTS, category
from mmjepa.benchmark.train import benchmark_train
from mmjepa.engine.config import ConfigError

IMAGES = {'arch': [64, 2, 2, 128], 'predictor_depth': 1, 'predictor_width': 32, 'batch_size': 2}
CLIPS = IMAGES | {'num_frames': 4, 'img_size': 32}
FAMILIES = {
    'ijepa': ('vit_tiny4_cifar10.py', IMAGES),
    'dmt_jepa': ('vit_tiny4_cifar10.py', IMAGES),
    'vjepa': ('vit_tiny_sim.py', CLIPS),
    'salt': ('student_sim.py', CLIPS | {'teacher_arch': [32, 2, 2, 64]}),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_synthetic_batches_of_every_family(repo, capfd, family):
    name, options = FAMILIES[family]
    path = str(repo / 'configs' / family / name)
    report = benchmark_train(path, options, 'bf16', steps=2, warmup=1, synthetic=True)
    assert report.step_ms > 0
    assert report.batch_size == 2
    assert 0 < report.product_share <= 1
    assert report.flops == pytest.approx(benchmark_flops(path, options, draws=4).total)
    assert f'{report.tflops_per_s:.4g} TFLOP/s' in report.text()
    printed = ''.join(capfd.readouterr())
    assert 'init_weights' not in printed  # no line a tensor


def test_sweeps_and_their_loader(repo, tmp_path):
    case = CASES['ADLJEPA']
    root = case.make_data(tmp_path / 'data')
    options = case.options | {'data_root': str(root), 'model.encoder.backend': 'rulebook'}
    path = str(repo / case.config)
    report = benchmark_train(path, options, steps=1, warmup=1, with_loader=True)
    assert report.voxels > 10
    assert 0 < report.data_wait < 1
    assert report.flops > 1e6
    with pytest.raises(ConfigError, match='VoxelPreprocessor.*data_root'):
        benchmark_train(path, options, synthetic=True)


def test_every_family_is_measured(repo):
    folders = {p.parent.name for p in repo.glob('configs/*/metafile.yml')}
    assert folders <= {*FAMILIES, 'adl_jepa'}


def test_no_loader_behind_synthetic_batches(repo):
    with pytest.raises(ConfigError, match='--loader or --synthetic'):
        benchmark_train('none.py', synthetic=True, with_loader=True)


@pytest.mark.parametrize(
    ('kernel', 'label'),
    [
        ('nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopB_bias_TNN', PRODUCTS),
        ('sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64', PRODUCTS),
        ('cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16', PRODUCTS),
        ('void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel', PRODUCTS),
        ('fmha_cutlassF_bf16_aligned_64x64_rf_sm80', PRODUCTS),
        ('aten::_scaled_dot_product_flash_attention_for_cpu', PRODUCTS),
        ('triton_poi_fused__to_copy_gelu_3', 'fused elementwise'),
        ('void at::native::direct_copy_kernel_cuda', 'copies and casts'),
        ('multi_tensor_apply_kernel<FusedAdamMathFunctor>', 'optimizer and EMA'),
        ('sm80_xmma_fprop_f16f16_f16f32', 'dense convolution'),
    ],
)
def test_category_of_a_kernel(kernel, label):
    assert category(kernel) == label
