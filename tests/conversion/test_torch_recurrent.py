"""Our recurrent layers against `nn.RNN`, `nn.GRU` and `nn.LSTM`, carried over in both directions."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder import (
    RecurrentDecoderConfig,
    RecurrentDecoderModel,
    RecurrentEncoderConfig,
    RecurrentEncoderModel,
)
from hf_custom_decoder.conversion import (
    load_torch_recurrent_decoder,
    load_torch_recurrent_encoder,
    to_torch_recurrent,
    torch_recurrent_fields,
    torch_recurrent_weights,
)

MODULES = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
TOLERANCES = {torch.float64: (1e-10, 0.0), torch.float32: (1e-5, 1e-5)}
BATCH, LENGTH, INPUT, WIDTH = 4, 6, 5, 7
LENGTHS = torch.tensor([6, 3, 1, 5])
MASK = (torch.arange(LENGTH) < LENGTHS[:, None]).long()

dtypes = pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
cells = pytest.mark.parametrize("cell_type", MODULES)


def build(cell_type: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    return MODULES[cell_type](INPUT, WIDTH, batch_first=True, dtype=dtype, **options)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, name: str = "") -> None:
    atol, rtol = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")


def states_of(theirs: Any, state: Any) -> torch.Tensor:
    """torch's `(layers * directions, B, H)`, one or two of them, as our `(B, layers, 1 or 2, directions * H)`."""
    parts = state if isinstance(state, tuple) else (state,)
    per_layer = [one.unflatten(0, (theirs.num_layers, -1)).permute(2, 0, 1, 3).flatten(2) for one in parts]
    return torch.stack(per_layer, dim=2)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in module.named_parameters() if one.grad is not None}


@dtypes
@cells
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)])
def test_encoder(cell_type: str, num_layers: int, bidirectional: bool, dtype: torch.dtype) -> None:
    theirs = build(cell_type, dtype, num_layers=num_layers, bidirectional=bidirectional)
    config = RecurrentEncoderConfig(vocab_size=9, **torch_recurrent_fields(theirs, "encoder"))
    ours = load_torch_recurrent_encoder(theirs, config)
    one = torch.randn(BATCH, LENGTH, INPUT, dtype=dtype)
    their_input, our_input = one.clone().requires_grad_(), one.clone().requires_grad_()

    packed = nn.utils.rnn.pack_padded_sequence(their_input, LENGTHS, batch_first=True, enforce_sorted=False)
    outputs, last = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=LENGTH)
    found = ours(inputs_embeds=our_input, attention_mask=MASK)
    assert_near(found.last_hidden_state, expected)
    assert_near(found.final_states, states_of(theirs, last))

    weight, other = torch.randn_like(expected), torch.randn_like(found.final_states)
    ((expected * weight).sum() + (states_of(theirs, last) * other).sum()).backward()
    ((found.last_hidden_state * weight).sum() + (found.final_states * other).sum()).backward()
    assert_near(our_input.grad, their_input.grad)
    expected_gradients = torch_recurrent_weights(gradients(theirs), "encoder")
    assert set(gradients(ours)) == set(expected_gradients)
    for name, gradient in expected_gradients.items():
        assert_near(gradients(ours)[name], gradient, name)


@dtypes
@cells
@pytest.mark.parametrize("num_layers", [1, 2])
def test_decoder(cell_type: str, num_layers: int, dtype: torch.dtype) -> None:
    theirs = build(cell_type, dtype, num_layers=num_layers)
    config = RecurrentDecoderConfig(vocab_size=9, **torch_recurrent_fields(theirs, "decoder"))
    ours = load_torch_recurrent_decoder(theirs, config)
    inputs = torch.randn(BATCH, LENGTH, INPUT, dtype=dtype)
    first = torch.randn(num_layers, BATCH, WIDTH, dtype=dtype)
    given = (first, first.flip(0)) if cell_type == "lstm" else first
    expected, _ = theirs(inputs, given)
    initial = {"initial_states": states_of(theirs, given)}

    whole = ours(inputs_embeds=inputs, use_cache=False, **initial).last_hidden_state
    assert_near(whole, expected)
    steps, cache = [], None
    for step in range(LENGTH):
        output = ours(inputs_embeds=inputs[:, step : step + 1], past_key_values=cache, use_cache=True, **initial)
        cache = output.past_key_values
        steps.append(output.last_hidden_state)
    assert_near(torch.cat(steps, dim=1), expected)

    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (whole * weight).sum().backward()
    for name, gradient in torch_recurrent_weights(gradients(theirs), "decoder").items():
        assert_near(gradients(ours)[name], gradient, name)


@cells
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_there_and_back(cell_type: str, side: str) -> None:
    theirs = build(cell_type, num_layers=3, bidirectional=side == "encoder", dropout=0.25)
    fields = torch_recurrent_fields(theirs, side)
    if side == "encoder":
        ours: Any = load_torch_recurrent_encoder(theirs, RecurrentEncoderConfig(vocab_size=9, **fields))
    else:
        ours = load_torch_recurrent_decoder(theirs, RecurrentDecoderConfig(vocab_size=9, **fields))
    back = to_torch_recurrent(ours)
    assert type(back) is type(theirs)
    assert repr(back) == repr(theirs)
    assert not back.training
    assert not ours.training
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
        assert back.state_dict()[name].data_ptr() != weight.data_ptr()


def test_without_biases() -> None:
    theirs = build("gru", bias=False, bidirectional=True)
    config = RecurrentEncoderConfig(vocab_size=9, **torch_recurrent_fields(theirs, "encoder"))
    inputs = torch.randn(BATCH, LENGTH, INPUT, dtype=torch.float64)
    output = load_torch_recurrent_encoder(theirs, config)(inputs_embeds=inputs).last_hidden_state
    assert_near(output, theirs(inputs)[0])


def test_attention_stays_fresh() -> None:
    theirs = build("lstm")
    fields = torch_recurrent_fields(theirs, "decoder")
    config = RecurrentDecoderConfig(vocab_size=9, add_cross_attention=True, readout_sizes=[4], **fields)
    ours = load_torch_recurrent_decoder(theirs, config)
    source = torch.randn(BATCH, 3, WIDTH, dtype=torch.float64)
    output = ours(input_ids=torch.ones(BATCH, 2, dtype=torch.long), encoder_hidden_states=source)
    assert output.last_hidden_state.shape == (BATCH, 2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell_type": "rnn", "nonlinearity": "relu"}, "nonlinearity='tanh'.*got 'relu'"),
        ({"cell_type": "lstm", "proj_size": 3}, "proj_size=0.*got 3"),
        ({"cell_type": "gru", "bidirectional": True}, "a decoder reads in one direction, got `bidirectional=True`"),
    ],
)
def test_modules_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_recurrent_fields(build(**options), "decoder")


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="must be an nn.RNN, nn.GRU or nn.LSTM, got GRUCell"):
        torch_recurrent_fields(nn.GRUCell(2, 3), "encoder")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`side` must be 'encoder' or 'decoder', got 'left'"):
        torch_recurrent_fields(build("gru"), "left")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a RecurrentEncoderModel or a RecurrentDecoderModel, got Linear"):
        to_torch_recurrent(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["weight_hr_l0", "rnn.weight_ih_l0", "weight_ih_l0_reverse"])
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match=f"must be named as in nn.RNN.*got '{name}'"):
        torch_recurrent_weights({name: torch.zeros(1)}, "decoder")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cell_type", "lstm"),
        ("hidden_size", 8),
        ("embedding_size", 3),
        ("num_hidden_layers", 2),
        ("residual", True),
        ("input_feeding", True),
    ],
)
def test_configs_that_do_not_fit(field: str, value: Any) -> None:
    theirs = build("gru")
    fields = {**torch_recurrent_fields(theirs, "decoder"), field: value}
    with pytest.raises(ValueError, match=rf"load_torch_recurrent_decoder: `config\.{field}` must be .*got {value!r}"):
        load_torch_recurrent_decoder(theirs, RecurrentDecoderConfig(vocab_size=9, **fields))


def test_directions_that_do_not_fit() -> None:
    config = RecurrentEncoderConfig(vocab_size=9, hidden_size=2 * WIDTH, embedding_size=INPUT, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"`config\.hidden_size` must be 7 as in the source, got 14"):
        load_torch_recurrent_encoder(build("lstm"), config)


@pytest.mark.parametrize("field", ["residual", "input_feeding"])
def test_layers_that_torch_does_not_have(field: str) -> None:
    model = RecurrentDecoderModel(
        RecurrentDecoderConfig(vocab_size=9, hidden_size=8, add_cross_attention=True, **{field: True})
    )
    with pytest.raises(ValueError, match=rf"`config\.{field}` must be False"):
        to_torch_recurrent(model)


def test_adapters_are_refused() -> None:
    peft = pytest.importorskip("peft", reason="needs peft, an optional extra")
    model = RecurrentEncoderModel(RecurrentEncoderConfig(vocab_size=9, hidden_size=8))
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["recurrent_proj"]))
    with pytest.raises(ValueError, match=r"plain linear layers, those of 'layers\.0\.forward_cell' do not"):
        to_torch_recurrent(adapted.base_model.model)
