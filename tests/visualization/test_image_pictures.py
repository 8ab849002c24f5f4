"""What the pictures of an image show."""

import numpy as np
import pytest
import torch
from toy_images import colour_scene

from mmjepa.apis import image_inputs, init_model
from mmjepa.visualization import image_figure, view_image
from mmjepa.visualization.images import HIDDEN, nearest_patches

SMALL = {'arch': [32, 2, 2, 64], 'predictor_depth': 1, 'predictor_width': 16}
IMAGE = colour_scene(3, 32)[0]


@pytest.fixture(params=['ijepa', 'dmt_jepa'])
def model(request, repo):
    torch.manual_seed(0)
    return init_model(repo / f'configs/{request.param}/vit_tiny4_cifar10.py', cfg_options=SMALL)


def test_views_are_what_the_model_sees(model):
    views = view_image(model, IMAGE, seed=5)
    assert np.array_equal(views.pixels, IMAGE)
    inputs = image_inputs(model, IMAGE, seed=5)
    seen = model.inspect(inputs)
    masks = seen['masks']
    assert views.context.flatten().nonzero()[:, 0].tolist() == masks.context[0].tolist()
    assert views.blocks.flatten(1).sum(1).tolist() == [masks.targets.shape[2]] * 4
    assert not (views.context & views.hidden).any()
    torch.testing.assert_close(
        views.tokens.flatten(0, 1), model.extract_feat(inputs)[0], rtol=0, atol=1e-6
    )
    first = int(masks.targets[0, 0, 0])
    row = int(views.hidden.flatten()[:first].sum())
    where = (masks.targets[0] == first).nonzero()
    wanted = torch.stack([seen['prediction'][0, m, k] for m, k in where.tolist()]).mean(0)
    torch.testing.assert_close(views.prediction[row], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        views.target[row], seen['target'][0, 0, 0].float(), rtol=0, atol=1e-5
    )
    other = view_image(model, IMAGE, seed=6)
    assert not torch.equal(other.context, views.context)


def test_right_predictions_paint_the_image(model):
    views = view_image(model, IMAGE)
    views.target += torch.randn_like(views.target)  # else untrained targets may be equal
    views.prediction = views.target.clone()
    assert views.nearest.tolist() == list(range(len(views.target)))
    shown = (views.hidden | views.context).numpy().repeat(4, 0).repeat(4, 1)
    picture = nearest_patches(views)
    assert np.array_equal(picture[shown], IMAGE[shown])
    assert (picture[~shown] == HIDDEN).all()
    views.prediction = views.target.roll(1, 0)
    assert not np.array_equal(nearest_patches(views)[shown], IMAGE[shown])


def test_titles_tell_the_figures(model):
    figure = image_figure(view_image(model, IMAGE, title='name'))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == 'Input and 4 target blocks'
    assert any(title.startswith('Prediction as nearest of') for title in titles)
    assert figure.get_suptitle() == 'name'
