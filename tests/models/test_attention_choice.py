"""How a kernel is chosen: by the config, at loading, for the whole model or by part; and how a wrong one is refused."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from tests.factories import tiny_config
from tests.models.model_cases import COVERING_CASES, KIND_CASES, KINDS, make_config, make_inputs, make_model, over, run


def implementations(model: PreTrainedModel) -> set[str]:
    """What every config in the model says; a submodel holds the very config of the whole."""
    return {module.config._attn_implementation for module in model.modules() if isinstance(module, PreTrainedModel)}


def of_parts(config: PreTrainedConfig) -> tuple[str, str, str]:
    return (
        config._attn_implementation,
        config.encoder._attn_implementation,
        config.decoder._attn_implementation,
    )


@over(KIND_CASES)
def test_switching(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    assert implementations(model) == {"sdpa"}
    for name in ("eager", "sdpa", "eager"):
        model.set_attn_implementation(name)
        assert implementations(model) == {name}
    with pytest.raises(ValueError, match='Specified `attn_implementation="foo"` is not supported'):
        model.set_attn_implementation("foo")
    assert implementations(model) == {"eager"}


@over(COVERING_CASES)
def test_choice_at_loading(kind: str, variant: str, tmp_path: Path) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    model.save_pretrained(tmp_path)
    assert implementations(KINDS[kind].from_pretrained(tmp_path)) == {"sdpa"}
    eager = KINDS[kind].from_pretrained(tmp_path, attn_implementation="eager")
    assert implementations(eager) == {"eager"}
    torch.testing.assert_close(run(eager, **inputs, output_attentions=True), run(eager, **inputs))
    assert implementations(KINDS[kind]._from_config(make_config(kind, variant), attn_implementation="eager")) == {
        "eager"
    }


def test_choice_in_the_config() -> None:
    config = tiny_config(attn_implementation="eager")
    assert of_parts(config) == ("eager", "eager", "eager")
    config._attn_implementation = "sdpa"
    assert of_parts(config) == ("sdpa", "sdpa", "sdpa")
    assert implementations(make_model("causal", attn_implementation="eager")) == {"eager"}


def test_choice_by_part(tmp_path: Path) -> None:
    model, inputs = make_model("seq2seq_lm"), make_inputs("seq2seq_lm")
    expected = run(model, **inputs)
    model.save_pretrained(tmp_path)
    model.set_attn_implementation({"encoder": "eager"})
    assert of_parts(model.config) == ("sdpa", "eager", "sdpa")
    torch.testing.assert_close(run(model, **inputs), expected)
    model.set_attn_implementation({"encoder": "sdpa", "decoder": "eager"})
    assert of_parts(model.config) == ("sdpa", "sdpa", "eager")
    torch.testing.assert_close(run(model, **inputs), expected)
    loaded = KINDS["seq2seq_lm"].from_pretrained(tmp_path, attn_implementation={"encoder": "eager", "decoder": "sdpa"})
    assert of_parts(loaded.config)[1:] == ("eager", "sdpa")
    torch.testing.assert_close(run(loaded, **inputs), expected)


@pytest.mark.parametrize(
    "choice", ["flex_attention", {"decoder": "flex_attention"}, {"": "eager", "encoder": "flex_attention"}]
)
def test_a_refused_choice_changes_nothing(choice: str | dict[str, str]) -> None:
    model = make_model("seq2seq_lm", "alibi")
    with pytest.raises(ValueError, match=r"`attn_implementation` must be 'eager' or 'sdpa' .*got 'flex_attention'"):
        model.set_attn_implementation(choice)
    assert implementations(model) == {"sdpa"}


@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq_lm"])
def test_a_refused_choice_at_construction_and_loading(kind: str, tmp_path: Path) -> None:
    words = r"`attn_implementation` must be 'eager' or 'sdpa' .*got 'flex_attention'"
    with pytest.raises(ValueError, match=words):
        make_model(kind, "alibi", attn_implementation="flex_attention")
    make_model(kind, "alibi").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        KINDS[kind].from_pretrained(tmp_path, attn_implementation="flex_attention")


def test_the_choice_is_not_saved(tmp_path: Path) -> None:
    model = make_model("seq2seq_lm")
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
