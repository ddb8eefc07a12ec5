"""A seq2seq model around its vocabulary projection: made from a pretrained encoder, its embeddings, its labels."""

from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_custom_seq2seq import CustomSeq2SeqConfig
from .encoder_custom_seq2seq import check_encoder, encoder_half, without_pooler
from .loss_custom_seq2seq import shift_tokens_right
from .pretrained_custom_seq2seq import HUB_ARGUMENTS, CustomSeq2SeqPreTrainedModel
from .sides_custom_seq2seq import CustomSeq2SeqSides

Model = TypeVar("Model", bound="CustomSeq2SeqHead")


class CustomSeq2SeqHead(CustomSeq2SeqPreTrainedModel):
    """What [`CustomSeq2SeqForConditionalGeneration`] is besides its forward and its search."""

    model: CustomSeq2SeqSides
    lm_head: nn.Module

    @classmethod
    def from_encoder_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str,
        *,
        decoder: PreTrainedConfig | dict[str, Any],
        encoder_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Model:
        r"""
        A pretrained encoder with a fresh decoder.

        Args:
            pretrained_model_name_or_path (`str`): Name or folder of any checkpoint that `AutoModel` knows; of an
                encoder-decoder checkpoint (T5, BART) the encoder is taken. Poolers are left out.
            decoder (`PreTrainedConfig` or `dict`): Config of the decoder.
            encoder_kwargs (`dict`, *optional*): For `AutoModel.from_pretrained` (`dtype`, `attn_implementation`, ...).
            kwargs: `revision`, `trust_remote_code`, `token`, `cache_dir`, `local_files_only`, `force_download` and
                `subfolder` go to `from_pretrained`, the rest to [`CustomSeq2SeqConfig`].

        Returns:
            [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, as `from_pretrained` returns it.

        Raises:
            ValueError: The checkpoint has no encoder; see also [`CustomSeq2SeqConfig`].
        """
        loading = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        loading.update(encoder_kwargs or {})
        hub = {name: loading[name] for name in HUB_ARGUMENTS if name in loading}
        encoder_config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        whole = AutoModel.from_pretrained(
            pretrained_model_name_or_path, **{**without_pooler(encoder_config), **loading}
        )
        encoder = encoder_half(whole)
        check_encoder(encoder)
        config = CustomSeq2SeqConfig(encoder=encoder.config, decoder=decoder, **kwargs)
        return cls(config, encoder).eval()

    def get_encoder(self, modality: str | None = None) -> PreTrainedModel:
        """The encoder."""
        return self.model.encoder

    def get_decoder(self) -> PreTrainedModel:
        """The decoder."""
        return self.model.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embedding, where it has one, else the decoder's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embedding."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary projection."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the vocabulary projection."""
        self.lm_head = value

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which weights are which, `{target: source}`; the encoder's embedding is named by [`CustomSeq2SeqModel`]."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        if not self.config.tie_word_embeddings:
            return {}
        return {"lm_head.weight": f"model.{self.model.embedding_name('decoder')}"}

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """
        As in transformers; a projection that is the decoder's embedding is saved as tied, whatever the config says.
        (peft compares it with the encoder's embedding when it merges an adapter, and clears `tie_word_embeddings`.)
        """
        if getattr(self.lm_head, "weight", None) is self.get_decoder().get_input_embeddings().weight:
            self.config.tie_word_embeddings = True
        super().save_pretrained(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder input of shape `(B, T)` for labels of that shape; `DataCollatorForSeq2Seq` calls it."""
        pad_token_id, start_token_id = self.config.pad_token_id, self.config.start_token_id
        if start_token_id is None:
            raise ValueError("`decoder_start_token_id` must be set to shift labels, got None. Set it in the config.")
        return shift_tokens_right(labels, pad_token_id, start_token_id)
