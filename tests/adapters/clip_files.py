"""Random encoders of clips and the checkpoints that hold them."""

import torch
from mmengine.config import Config
from vit_files import randomise

from mmjepa.models.encoders import JEPAViT
from mmjepa.models.predictors import ViTPredictor

ARCH = (96, 2, 3, 192)  # heads of 32 channels: 10 an axis
ENCODER = dict(arch=ARCH, img_size=32, patch_size=8, num_frames=4)  # 2 x 4 x 4 tubelets
PREDICTOR = dict(channels=24, depth=2, num_heads=2, mask_tokens=3)
TUBELETS = 32


def make_vit(seed=0, **options):
    return randomise(JEPAViT(**{**ENCODER, **options}), seed)


def make_predictor(seed=2, **options):
    return randomise(ViTPredictor((2, 4, 4), 96, **{**PREDICTOR, **options}), seed)


def clips(*sizes):
    sizes = sizes or (2, 3, 4, 32, 32)
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(3))


def mmjepa_content(positions='sincos'):
    """What pre-training writes; online encoder of seed 0, target of seed 1, predictor of 2."""
    state = {}
    tokens = 'sincos' if positions == 'learned' else positions
    parts = {
        'encoder.': make_vit(0, positions=positions),
        'target.encoder.': make_vit(1, positions=positions),
        'predictor.': make_predictor(2, positions=tokens),
    }
    for prefix, part in parts.items():
        state |= {prefix + k: v for k, v in part.state_dict().items()}
    encoder = dict(type='JEPAViT', **ENCODER, positions=positions)
    cfg = dict(type='VJEPA', encoder=encoder, predictor=dict(type='ViTPredictor', **PREDICTOR))
    return dict(meta=dict(cfg=Config(dict(model=cfg)).pretty_text), state_dict=state)


def official_content(positions='sincos', tables=False):
    """What the official training writes, names written out.

    Args:
        tables: with position tables that rotary networks don't use.
    """
    encoder, target = (dict(make_vit(i, positions=positions).state_dict()) for i in (0, 1))
    predictor = {}
    for key, value in make_predictor(2, positions=positions).state_dict().items():
        if key == 'mask_token':
            predictor |= {f'mask_tokens.{i}': value[i : i + 1] for i in range(3)}
        else:
            predictor[f'predictor_{key}'] = value
    if tables:
        for part, width in ((encoder, 96), (target, 96)):
            part['pos_embed'] = torch.rand(1, TUBELETS, width)
        predictor['predictor_pos_embed'] = torch.rand(1, TUBELETS, 24)
    parts = dict(encoder=encoder, predictor=predictor, target_encoder=target)
    content = {
        part: {f'module.backbone.{k}': v.clone() for k, v in state.items()}
        for part, state in parts.items()
    }
    return {**content, 'opt': {}, 'scaler': None, 'epoch': 300, 'loss': 0.1, 'lr': 0.001}
