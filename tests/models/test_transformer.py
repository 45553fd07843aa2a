import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from models.transformer import AttentionLayer, Transformer, TransformerConfig, attend

WINDOW, CHANNELS = 5, 2


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_layer():
    layer = AttentionLayer(8, 2)
    g = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5, generator=g)
    return layer.double()


@pytest.mark.parametrize("n_queries", [1, 5])
def test_attention_equals_torchs_own(n_queries):
    queries, keys, values = normal(3, 4, 2, 5, 6).unbind()
    queries = queries[:, :, -n_queries:]
    presence = torch.tensor([1.0, 1, 1, 1, 1], dtype=torch.float64).repeat(4, 1)
    presence[1, :3] = presence[2, 1] = 0
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[-n_queries:]
    mask = seen & (presence[:, None, None, :] > 0)  # (batch, 1, queries, places)
    found = attend(queries, keys, values, presence)
    expected = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    some = mask.any(dim=3).expand(4, 2, n_queries)
    assert found[~some].abs().sum() == 0  # a query that sees nothing gathers nothing
    torch.testing.assert_close(found[some], expected[some])


def test_attention_survives_products_of_any_size():
    queries, keys, values = normal(3, 4, 2, 5, 6).unbind()
    found = attend(1e6 * queries, keys, values, torch.ones(4, 5, dtype=torch.float64))
    assert found.isfinite().all()


def test_no_place_looks_ahead():
    layer, tokens = make_layer(), normal(3, 6, 8).requires_grad_()
    presence = torch.ones(3, 6, dtype=torch.float64)
    layer(tokens, presence, last_only=False)[:, 2].sum().backward()
    assert tokens.grad[:, 3:].abs().max() == 0
    assert (tokens.grad[:, :3].abs().sum(dim=(0, 2)) > 0).all()


def test_the_last_place_alone_is_what_the_whole_computation_gives_there():
    layer, tokens = make_layer(), normal(3, 6, 8)
    presence = torch.ones(3, 6, dtype=torch.float64)
    presence[0, :4] = 0
    with torch.no_grad():
        whole = layer(tokens, presence, last_only=False)[:, -1:]
        torch.testing.assert_close(layer(tokens, presence, last_only=True), whole)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_longer_window_of_absent_places_changes_nothing(layers):
    def make(window):
        config = TransformerConfig(
            window=window, channels=CHANNELS, width=8, heads=2, layers=layers
        )
        return Transformer(config, 3 + window * (CHANNELS + 1))

    long, short = make(WINDOW), make(2)
    g = torch.Generator().manual_seed(0)
    for parameter in long.parameters():
        nn.init.normal_(parameter, std=0.5, generator=g)
    state = long.state_dict()
    few = {key: state[key][-3:] for key in ("places", "log_variance_steps")}
    short.load_state_dict(state | few)
    events = normal(6, WINDOW, CHANNELS)
    presence = torch.ones(6, WINDOW, dtype=torch.float64)
    presence[:, :3] = 0
    with torch.no_grad():
        context = long.double().read_window(events, presence)
        alone = short.double().read_window(events[:, 3:], presence[:, 3:])
    torch.testing.assert_close(context, alone)


@pytest.mark.parametrize("values", [{"width": 30}, {"layers": 0}, {"heads": 0}])
def test_config_without_meaning_is_refused(values):
    with pytest.raises(ValueError, match="expected layers > 0 and a width"):
        TransformerConfig(**values)
