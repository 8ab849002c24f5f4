"""BEV masking: partition, exact ratios, seeds."""

import pytest
import torch

from mmjepa.models.masks import BEVMaskGenerator

SHAPE, BATCH = (12, 10), 3


def _cells(seed: int = 0, voxels: int = 400) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, BATCH * SHAPE[0] * SHAPE[1] // 2, (voxels,), generator=g) * 2


def _draw(generator, cells, seeds=(1, 2, 3)):
    return generator(cells, BATCH, SHAPE, torch.tensor(seeds))


@pytest.mark.parametrize('mask_per', ['batch', 'sample'])
@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75])
@pytest.mark.parametrize('multiplier', [1, 3])
def test_partition(mask_per, ratio, multiplier):
    cells = _cells()
    m = _draw(BEVMaskGenerator(ratio, mask_per=mask_per, cell_multiplier=multiplier), cells)
    parts = [m.visible_occupied, m.masked_occupied, m.visible_empty, m.masked_empty]
    joined = torch.cat(parts)
    assert joined.sort().values.tolist() == list(range(BATCH * SHAPE[0] * SHAPE[1]))
    for number, part in enumerate(parts):
        assert (m.classes.view(-1)[part] == number).all()
        assert (part.diff() > 0).all()
    occupied = cells.unique()
    assert torch.cat(parts[:2]).sort().values.equal(occupied)
    # voxels follow their cells: complementary, and no cell holds both kinds
    voxels = torch.cat([m.visible_voxels, m.masked_voxels])
    assert voxels.sort().values.tolist() == list(range(len(cells)))
    assert set(cells[m.visible_voxels].tolist()) == set(m.visible_occupied.tolist())
    assert set(cells[m.masked_voxels].tolist()) == set(m.masked_occupied.tolist())


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75])
def test_exact_ratio(ratio):
    cells = _cells()
    n = len(cells.unique())
    m = _draw(BEVMaskGenerator(ratio), cells)
    assert len(m.visible_occupied) == int(n * (1 - ratio))
    m = _draw(BEVMaskGenerator(ratio, mask_per='sample'), cells)
    per_sample = SHAPE[0] * SHAPE[1]
    for b in range(BATCH):
        n = int((cells.unique() // per_sample == b).sum())
        assert int((m.visible_occupied // per_sample == b).sum()) == int(n * (1 - ratio))


def test_empty_cells_are_masked_by_chance():
    cells = torch.zeros(1, dtype=torch.long)
    m = BEVMaskGenerator(0.5, empty_mask_ratio=0.3)(cells, 1, (200, 200), torch.tensor([7]))
    share = len(m.masked_empty) / (200 * 200 - 1)
    assert share == pytest.approx(0.3, abs=0.01)
    m = BEVMaskGenerator(0.5, empty_mask_ratio=0)(cells, 1, (200, 200), torch.tensor([7]))
    assert len(m.masked_empty) == 0


def test_never_empty_with_two_cells():
    for ratio in (0.01, 0.99):
        m = BEVMaskGenerator(ratio)(torch.tensor([0, 5]), 1, (4, 4), torch.tensor([1]))
        assert len(m.visible_occupied) == len(m.masked_occupied) == 1


def test_sample_masks_depend_on_their_own_seed_only():
    cells = _cells()
    generator = BEVMaskGenerator(mask_per='sample')
    a, b = _draw(generator, cells, (1, 2, 3)), _draw(generator, cells, (1, 9, 3))
    assert torch.equal(a.classes[[0, 2]], b.classes[[0, 2]])
    assert not torch.equal(a.classes[1], b.classes[1])
    again = _draw(generator, cells, (1, 2, 3))
    assert torch.equal(a.classes, again.classes)


def test_every_cell_is_masked_as_often():
    """500 draws: the share masked of each occupied cell is within 5 sigma of one half."""
    cells = torch.arange(40)
    generator = BEVMaskGenerator(0.5)
    hits = torch.zeros(40)
    for seed in range(500):
        m = generator(cells, 1, (8, 8), torch.tensor([seed]))
        hits[m.masked_occupied] += 1
    assert ((hits / 500 - 0.5).abs() < 5 * 0.5 / 500**0.5).all()


def test_blocks_are_masked_together():
    cells = torch.arange(64)
    m = BEVMaskGenerator(0.5, cell_multiplier=4)(cells, 1, (8, 8), torch.tensor([1]))
    blocks = m.classes[0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2)
    assert (blocks == blocks[..., :1]).all()


@pytest.mark.cuda
def test_same_masks_on_cuda():
    cells, seeds = _cells(), torch.tensor([1, 2, 3])
    generator = BEVMaskGenerator()
    cpu = generator(cells, BATCH, SHAPE, seeds)
    gpu = generator(cells.cuda(), BATCH, SHAPE, seeds.cuda())
    assert torch.equal(cpu.classes, gpu.classes.cpu())
    assert torch.equal(cpu.masked_voxels, gpu.masked_voxels.cpu())
