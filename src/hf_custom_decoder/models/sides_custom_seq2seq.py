"""
The two sides of a seq2seq model: their embeddings, and how each is run.

Legend: B source rows, S source length, E width.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .bridge_custom_seq2seq import StateBridge
from .configuration_custom_seq2seq import output_width
from .inputs_custom_seq2seq import check_id_range
from .pretrained_custom_seq2seq import CustomSeq2SeqPreTrainedModel
from .user_decoder_custom_seq2seq import build_user_cache


class CustomSeq2SeqSides(CustomSeq2SeqPreTrainedModel):
    """What [`CustomSeq2SeqModel`] does with its encoder and its decoder, each by itself."""

    encoder: PreTrainedModel
    decoder: PreTrainedModel
    state_bridge: StateBridge | None
    _encoder_names: set[str]
    _encoder_takes_any: bool
    _decoder_names: set[str] | None  # what a user's decoder takes; ours take everything

    def get_encoder(self, modality: str | None = None) -> PreTrainedModel:
        """The encoder."""
        return self.encoder

    def get_decoder(self) -> PreTrainedModel:
        """The decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embedding, where it has one, else the decoder's."""
        try:
            return self.encoder.get_input_embeddings()
        except NotImplementedError:
            return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embedding; the decoder's too where the two are tied."""
        self.encoder.set_input_embeddings(value)
        if self.config.tie_encoder_decoder_embeddings:
            self.decoder.set_input_embeddings(value)

    def embedding_name(self, side: str) -> str:
        """
        Name of the token embedding matrix of a side (`"encoder"` or `"decoder"`) below this module.

        Raises:
            ValueError: That side has none.
        """
        part = getattr(self, side)
        try:
            weight = getattr(part.get_input_embeddings(), "weight", None)
        except NotImplementedError:
            weight = None
        for name, parameter in part.named_parameters(remove_duplicate=False):
            if parameter is weight:
                return f"{side}.{name}"
        raise ValueError(
            f"Tied embeddings need {'an encoder' if side == 'encoder' else 'a decoder'} with a token embedding "
            f"(`get_input_embeddings`), {type(part).__name__} has none. Set `tie_encoder_decoder_embeddings=False`"
            f"{'' if side == 'encoder' else ' and `tie_word_embeddings=False`'}."
        )

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which weights are which, `{target: source}`; here by `tie_encoder_decoder_embeddings`."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        if not self.config.tie_encoder_decoder_embeddings:
            return {}
        return {self.embedding_name("encoder"): self.embedding_name("decoder")}

    def _encode(self, arguments: dict[str, Any], flags: dict[str, Any]) -> BaseModelOutput:
        """Run the encoder on those of `arguments` that it takes."""
        for name in [name for name, value in arguments.items() if value is None]:
            del arguments[name]
        refused = [name for name in arguments if name not in self._encoder_names and not self._encoder_takes_any]
        if self.main_input_name not in ("input_ids", "inputs_embeds"):
            arguments.pop("attention_mask", None) if "attention_mask" in refused else None
            refused = [name for name in refused if name != "attention_mask"]
        if "token_type_ids" in refused:  # tokenizers make them unasked
            del arguments["token_type_ids"]
            refused.remove("token_type_ids")
        if refused:
            raise TypeError(
                f"{type(self).__name__}: {type(self.encoder).__name__} takes no "
                f"{', '.join(f'`{name}`' for name in refused)}. Leave it out, or correct the name."
            )
        if self.main_input_name not in arguments and "inputs_embeds" not in arguments:
            raise ValueError(
                f"{type(self).__name__}: the encoder needs `{self.main_input_name}` (or `encoder_outputs`), got "
                "neither. Pass one of them."
            )
        return self.encoder(**arguments, **flags, return_dict=True)

    def _initial_states(self, encoder_outputs: BaseModelOutput) -> torch.Tensor:
        """First states of the decoder from the encoder's final ones, `(B, layers, 1 or 2, width)`."""
        final_states = encoder_outputs.get("final_states")
        if final_states is None:
            raise ValueError(
                f"{type(self).__name__}: `encoder_outputs` must carry `final_states` for this decoder's bridge, got "
                "none. Pass the output of this model's encoder as it is (no tuple)."
            )
        assert self.state_bridge is not None
        states: torch.Tensor = self.state_bridge(final_states)
        return states

    def _run_user_decoder(self, arguments: dict[str, Any]) -> Any:
        """Run a user's decoder on those arguments that it takes, with a cache wherever one is wanted."""
        owner = type(self.decoder).__name__
        if arguments["use_cache"] is None:
            arguments["use_cache"] = bool(getattr(self.config.decoder, "use_cache", True)) and not self.training
        if arguments["use_cache"] and arguments["past_key_values"] is None:
            arguments["past_key_values"] = build_user_cache(self.decoder)
        ids = arguments["input_ids"]
        if ids is not None:
            check_id_range(owner, "decoder_input_ids", ids, self.config.vocab_size)
        elif self._decoder_names is not None and "inputs_embeds" not in self._decoder_names:
            raise TypeError(f"{owner}: `forward` takes no `inputs_embeds`, got `decoder_inputs_embeds`. Pass ids.")
        if self._decoder_names is not None:
            arguments = {name: value for name, value in arguments.items() if name in self._decoder_names}
        outputs = self.decoder(**arguments)
        states = outputs.get("last_hidden_state") if isinstance(outputs, dict) else None
        width = output_width(self.config.decoder)
        if states is None or states.dim() != 3 or states.shape[-1] != width:
            raise ValueError(
                f"{owner}: `forward` must return a model output whose `last_hidden_state` has the shape (rows, "
                f"length, {width}), got {type(outputs).__name__ if states is None else tuple(states.shape)}. Return "
                "`BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=...)`."
            )
        return outputs

    def _source_mask(self, attention_mask: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor | None:
        """The padding mask of encoder states `(B, S, E)`; for encoders that shorten their input, at the new length."""
        if attention_mask is None or attention_mask.dim() != 2 or attention_mask.shape[1] == states.shape[1]:
            return attention_mask
        shorten = getattr(self.encoder, "_get_feature_vector_attention_mask", None)
        return shorten(states.shape[1], attention_mask) if shorten is not None else attention_mask
