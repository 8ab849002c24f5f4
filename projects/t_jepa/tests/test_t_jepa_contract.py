"""The core's contract for T-JEPA; `-rs` would name rules that it leaves out."""

import pytest
import tjepa_cases  # noqa: F401  (adds the case)
import torch
from cases import CASES
from test_contract import *  # noqa: F403
from test_contract import RULES

from mmjepa.apis import init_model
from mmjepa.engine.checkpoint import atomic_save
from mmjepa.registry import MODELS


@pytest.fixture
def case(tmp_path):
    case = CASES['TJEPA']
    case.name = 'TJEPA'
    case.root = case.make_data(tmp_path / 'toy')
    return case


def test_every_registered_method_has_a_case_and_prints_its_rules(capsys):
    assert not MODELS.get('TJEPA').contract
    with capsys.disabled():
        print('\ncontract of TJEPA:')
        for rule, text in RULES.items():
            print(f'  [x] {rule}: {text}')


def test_keep_ids(case):
    """The rule's own test knows images and clips; this one rows."""
    model = case.model(case.root).eval()
    rows = case.batch(model, case.root)['inputs']['rows']
    ids = torch.arange(rows.shape[1]).expand(len(rows), -1)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(rows, ids), model.encoder(rows, None))


def test_round_trip(case, tmp_path):
    """No other toolkit takes the encoder: the trip is through a checkpoint of ours."""
    model = case.model(case.root).eval()
    inputs = case.batch(model, case.root)['inputs']
    meta = dict(method='TJEPA', cfg=case.load(case.root).pretty_text)
    atomic_save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'jepa.pth')
    again = init_model(case.load(case.root), tmp_path / 'jepa.pth')
    with torch.no_grad():
        assert torch.equal(again.extract_feat(inputs), model.extract_feat(inputs))
        assert torch.equal(
            again.target.encoder(inputs['rows']), model.target.encoder(inputs['rows'])
        )
