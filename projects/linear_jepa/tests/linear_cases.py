"""How the tests build and feed the method: cases of the core's contract."""

import numpy as np

# before the cases are added: the parameters of the core's own tests are its own methods
import test_contract  # noqa: F401
from cases import CASES, Case

import projects.linear_jepa.linear_jepa  # noqa: F401  (registers the components)

CONFIGS = 'projects/linear_jepa/configs'
# the features of the reference, which a JEPA and an MAE learn in opposite order
LAM, RHO = (1.0, 0.9, 0.8), (0.5, 0.7, 0.95)


def _first_view_alone(model, inputs):
    pairs = inputs['pairs']
    masks = model.mask_generator(pairs)
    seen, hidden = pairs[:, masks.context], pairs[:, masks.targets]
    changed = pairs.clone()
    changed[:, masks.targets] += 1
    alike = model.predictor(model.encoder(seen)) == model.predictor(
        model.encoder(changed[:, masks.context])
    )
    return seen.shape == hidden.shape == (len(pairs), 3) and bool(alike.all())


def write_pairs(root):
    """Your own x and y: the second one half follows from the first."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3))
    y = x @ rng.standard_normal((3, 3)) / 2 + rng.standard_normal((500, 3))
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / 'pairs.npz', x=x, y=y)
    return root


_OPTIONS = dict(max_iters=4, log_interval=2)
CASES['LinearJEPA'] = Case(
    config=f'{CONFIGS}/linear_jepa.py',
    options=_OPTIONS,
    make_data=write_pairs,
    remove_labels=lambda root: None,
    hidden_and_visible=_first_view_alone,
    impossible=[dict(channels=0)],
)
