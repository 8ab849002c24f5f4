import numpy as np
import pytest


@pytest.fixture
def make_sweep():
    """A function writing a plausible sweep: (path, seed, points, dim) -> (points, dim) float32."""

    def make(path, seed=0, points=600, dim=4):
        rng = np.random.default_rng(seed)
        columns = [
            rng.uniform(5, 60, points),
            rng.uniform(-30, 30, points),
            rng.normal(-1.5, 0.2, points),
            rng.random(points),
        ]
        columns += [rng.integers(0, 32, points) for _ in range(dim - 4)]
        array = np.stack(columns, axis=1).astype(np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.npy':
            np.save(path, array)
        else:
            array.tofile(path)
        return array

    return make
