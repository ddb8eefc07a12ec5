"""What every seq2seq class says of itself to transformers, and how its checkpoints are read."""

import os
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .attention_custom_seq2seq import check_parts_support
from .auto_map_custom_seq2seq import FullAutoMapMixin
from .checkpoint_custom_seq2seq import CheckedLoadingMixin
from .configuration_custom_seq2seq import CustomSeq2SeqConfig
from .decoder_custom_seq2seq import decoder_class
from .user_decoder_custom_seq2seq import is_unresolved, load_user_class, user_class, with_resolved_decoder

HUB_ARGUMENTS = (
    "revision",
    "trust_remote_code",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "subfolder",
)
"""Arguments of `from_pretrained` that say where and how a checkpoint is looked up."""


class CustomSeq2SeqPreTrainedModel(CheckedLoadingMixin, FullAutoMapMixin, PreTrainedModel):
    """What the seq2seq classes say of themselves to transformers."""

    config: CustomSeq2SeqConfig
    config_class = CustomSeq2SeqConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = []
    _skip_keys_device_placement = ["past_key_values"]
    full_auto_map = {
        "AutoConfig": "configuration_custom_seq2seq.CustomSeq2SeqConfig",
        "AutoModel": "modeling_custom_seq2seq.CustomSeq2SeqModel",
        "AutoModelForSeq2SeqLM": "modeling_custom_seq2seq.CustomSeq2SeqForConditionalGeneration",
    }

    def __init__(self, config: CustomSeq2SeqConfig, *args: Any, **kwargs: Any) -> None:
        decoder_class(config.decoder)  # refuses a decoder without a class before anything is built
        config.check()
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """
        As in transformers, except that weights which a checkpoint lacks are an error (a new head is not), and that
        the code of a decoder that travels with the checkpoint is run, with `trust_remote_code=True` only.

        Raises:
            ValueError: The checkpoint is truncated, is no safetensors file, belongs to another model, or carries code
                for its decoder and `trust_remote_code` is not set.
        """
        loaded: type[PreTrainedModel] | None = None
        path, hub = str(pretrained_model_name_or_path), {one: kwargs[one] for one in HUB_ARGUMENTS if one in kwargs}
        if pretrained_model_name_or_path is not None and hub.get("trust_remote_code"):
            config: Any = kwargs.get("config")
            is_given = isinstance(config, PreTrainedConfig)
            if not is_given:
                config = cls.config_class.from_pretrained(path if config is None else config, **hub)
            if is_unresolved(config.decoder):
                loaded = load_user_class(config.decoder.to_dict(), path, hub)
                if is_given:
                    kwargs["config"] = with_resolved_decoder(config, loaded)
        with user_class(loaded):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; raises `ValueError`, and changes nothing, for a kernel that cannot compute a part."""
        check_parts_support(self.config, attn_implementation)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        encoder = self.get_encoder()
        if isinstance(attn_implementation, dict) and encoder.config is not self.config.encoder:
            # The encoder half of T5 or BART has a config of its own, which transformers does not find by this name.
            if "encoder" in attn_implementation:
                encoder.set_attn_implementation(attn_implementation["encoder"])

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """A batch of two short rows."""
        ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 6]], device=self.device) % self.config.vocab_size
        return {"input_ids": ids, "decoder_input_ids": ids}
