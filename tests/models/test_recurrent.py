import pytest
import torch
from torch import nn

from models.recurrent import Recurrent, RecurrentConfig

WINDOW, CHANNELS, HIDDEN = 5, 2, 4


@pytest.fixture
def detector():
    config = RecurrentConfig(window=WINDOW, channels=CHANNELS, hidden_features=HIDDEN)
    made = Recurrent(config, 3 + WINDOW * (CHANNELS + 1))
    g = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5, generator=g)
    return made.double()


def events_of(n_rows, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, WINDOW, CHANNELS, generator=g, dtype=torch.float64)


def test_state_equals_torchs_own_unit(detector):
    unit = nn.GRU(CHANNELS, HIDDEN, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        unit.weight_ih_l0.copy_(detector.inward.weight)
        unit.weight_hh_l0.copy_(detector.onward.weight)
        unit.bias_ih_l0.copy_(detector.inward.bias)
        unit.bias_hh_l0.zero_()
        events = events_of(7)
        first = detector.first_state.expand(1, 7, HIDDEN).contiguous()
        expected = unit(events, first)[0][:, -1]
        state = detector.read_window(events, torch.ones(7, WINDOW, dtype=torch.float64))
    torch.testing.assert_close(state, expected)


def test_absent_places_keep_the_state(detector):
    events = events_of(6)
    presence = torch.ones(6, WINDOW, dtype=torch.float64)
    presence[:, :3] = 0  # two events, on the left nothing
    alone = Recurrent(
        RecurrentConfig(window=2, channels=CHANNELS, hidden_features=HIDDEN),
        3 + 2 * (CHANNELS + 1),
    ).double()
    alone.load_state_dict(
        detector.state_dict() | {"log_variance_steps": torch.zeros(3, 3, dtype=torch.float64)}
    )
    with torch.no_grad():
        state = detector.read_window(events, presence)
        expected = alone.read_window(events[:, 3:], presence[:, 3:])
    torch.testing.assert_close(state, expected)


def test_without_history_the_state_is_the_first_one(detector):
    with torch.no_grad():
        state = detector.read_window(events_of(3), torch.zeros(3, WINDOW, dtype=torch.float64))
    torch.testing.assert_close(state, detector.first_state.detach().expand(3, HIDDEN))


def test_no_state_is_refused():
    with pytest.raises(ValueError, match="expected hidden_features > 0, got 0"):
        RecurrentConfig(hidden_features=0)
