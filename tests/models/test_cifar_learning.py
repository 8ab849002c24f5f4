"""I-JEPA on real small images, beside a control whose targets are another image's."""

import zipfile

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.models.jepa import DMTJEPA, IJEPA
from mmjepa.registry import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS, BATCH, LR = 500, 64, 1e-3


class OtherTargets:
    """Predict what the target encoder makes of the next image of the batch."""

    def _targets(self, images, masks, grid):
        return super()._targets(images.roll(1, 0), masks, grid)


class OtherIJEPA(OtherTargets, IJEPA):
    pass


class OtherDMTJEPA(OtherTargets, DMTJEPA):
    pass


def read(archive, split, each):
    """The first ``each`` images of every class, (N, 3, 32, 32), normalised."""
    names = sorted(n for n in archive.namelist() if f'{split}/' in n and n.endswith('.jpg'))
    classes = sorted({name.split('/')[-2] for name in names})
    chosen = [n for kind in classes for n in [n for n in names if f'/{kind}/' in n][:each]]
    data = [np.frombuffer(archive.read(name), np.uint8) for name in chosen]
    images = np.stack([cv2.imdecode(d, cv2.IMREAD_COLOR)[..., ::-1] for d in data])
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 120) / 60


@pytest.fixture(scope='module')
def cifar(shared_dir):
    with zipfile.ZipFile(shared_dir / 'data/images/cifar10_30k.zip') as archive:
        return read(archive, 'train', 500), read(archive, 'test', 50)


@torch.no_grad()
def skill(model, images):
    """Share of the targets' error that the prediction saves over their mean at each place."""
    seen = model.inspect(dict(images=images, seeds=torch.arange(len(images))))
    ids, target = seen['masks'].targets.flatten(), seen['target'].flatten(0, 2)
    count = torch.bincount(ids, minlength=64).clamp(min=1)[:, None]
    mean = torch.zeros(64, target.shape[1]).index_add_(0, ids, target) / count
    errors = [F.smooth_l1_loss(x, target) for x in (seen['prediction'].flatten(0, 2), mean[ids])]
    return float(1 - errors[0] / errors[1])


def pretrain(kind, cifar):
    """Skill of a trained model on unseen images."""
    torch.manual_seed(0)
    config = dict(
        encoder=dict(type='JEPAViT', arch=(96, 4, 3, 384), img_size=32, patch_size=4),
        target=dict(type='TargetEncoder'),
        predictor=dict(type='ViTPredictor', channels=48, depth=2),
        mask_generator=dict(type='MultiBlockMaskGenerator', min_keep=4),
        loss=dict(type='RegressionLoss'),
    )
    if issubclass(kind, DMTJEPA):
        config |= dict(head=dict(type='AggregationHead'), neighbours=dict(type='NeighbourTargets'))
    parts = {name: MODELS.build(config.pop(name)) for name in ('mask_generator', 'loss')}
    model = kind(**config, **parts)
    model.target.sync(model.encoder, model.head)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.04
    )
    hook = TargetUpdateHook((0.996, 1.0))
    hook.attach(model, optimizer)
    rng = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group['lr'] = LR * min(1, (step + 1) / 50, 2 * (1 - step / STEPS))
        images = cifar[0][torch.randint(0, len(cifar[0]), (BATCH,), generator=rng)]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            inputs = dict(images=images, seeds=torch.arange(BATCH) + step * BATCH)
            loss = model.loss(inputs)['loss_prediction']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hook.update(hook.momentum_at(step, STEPS))
    found = skill(model.eval(), cifar[1])
    print(f'{kind.__name__}: skill {found:.3f}, loss {loss:.4f}')
    return found


@pytest.mark.parametrize('kinds', [(IJEPA, OtherIJEPA), (DMTJEPA, OtherDMTJEPA)], ids=str)
def test_predictions_are_made_of_the_image(kinds, cifar):
    """The loss alone doesn't tell: targets of other images collapse, which lowers it."""
    own, other = (pretrain(kind, cifar) for kind in kinds)
    assert own > max(0.2, other + 0.3)
    assert other < 0.02
