"""Random ViT encoders and the checkpoints that hold them."""

import functools

import torch
from mmengine.config import Config

from mmjepa.models.encoders import JEPAViT
from mmjepa.models.predictors import ViTPredictor
from mmjepa.registry import MODELS

ARCH = (192, 2, 3, 384)  # the heads of the named ViT of this width
ENCODER = dict(type='JEPAViT', arch=ARCH, img_size=32, patch_size=8)
PREDICTOR = dict(type='ViTPredictor', channels=24, depth=2, num_heads=3)


def randomise(module, seed):
    """Every parameter, so that no two tensors are equal and no bias is zero."""
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.3 if 'bias' in name or 'norm' in name else 0.08
        noise = scale * torch.randn(parameter.shape, generator=rng)
        parameter.data = noise + ('norm' in name and 'weight' in name)
    return module.eval()


def make_vit(seed=0, **options):
    return randomise(
        JEPAViT(**{k: v for k, v in {**ENCODER, **options}.items() if k != 'type'}), seed
    )


def make_predictor(seed=2):
    return randomise(ViTPredictor((4, 4), 192, channels=24, depth=2, num_heads=3), seed)


@functools.cache
def config_of(method='IJEPA'):
    model = dict(
        type=method,
        encoder=ENCODER,
        target=dict(type='TargetEncoder'),
        predictor=PREDICTOR,
        loss=dict(type='RegressionLoss', kind='smooth_l1'),
    )
    if method == 'DMTJEPA':
        model |= dict(
            head=dict(type='AggregationHead'),
            neighbours=dict(type='NeighbourTargets', window=3, k=4, border='clip'),
        )
    return Config(dict(model=model))


def save_mmjepa(path, method='IJEPA'):
    """What pre-training writes; online encoder of seed 0, target of seed 1, predictor of 2."""
    cfg = config_of(method)
    model = MODELS.build(cfg.model)
    randomise(model, 9)
    model.encoder.load_state_dict(make_vit(0).state_dict())
    model.target.encoder.load_state_dict(make_vit(1).state_dict())
    model.predictor.load_state_dict(make_predictor(2).state_dict())
    meta = dict(cfg=cfg.pretty_text, epoch=3)
    torch.save(dict(meta=meta, state_dict=model.state_dict(), optimizer={}), path)
    return model


def official_predictor(state):
    """The predictor's keys in the official code, written out."""
    names = {}
    for key, value in state.items():
        names[key if key == 'mask_token' else f'predictor_{key}'] = value
    return names


def save_official(path, **changes):
    """What the official training writes; encoder of seed 0, target of seed 1, predictor of 2."""

    def ddp(state):
        return {f'module.{k}': v for k, v in state.items()}

    encoder = ddp(make_vit(0).state_dict())
    content = dict(
        encoder=encoder,
        predictor=ddp(official_predictor(make_predictor(2).state_dict())),
        opt=dict(
            state={
                i: dict(step=torch.tensor(5.0), exp_avg=v) for i, v in enumerate(encoder.values())
            },
            param_groups=[dict(params=[0], lr=1e-3), dict(params=[1], WD_exclude=True)],
        ),
        scaler=dict(scale=65536.0, growth_factor=2.0),
        target_encoder=ddp(make_vit(1).state_dict()),
        epoch=300,
        loss=0.1,
        batch_size=128,
        world_size=16,
        lr=0.001,
    )
    torch.save({k: v for k, v in {**content, **changes}.items() if v is not None}, path)


def assert_same(state, wanted):
    assert set(state) == set(wanted)
    assert all(torch.equal(state[k], v) for k, v in wanted.items())
