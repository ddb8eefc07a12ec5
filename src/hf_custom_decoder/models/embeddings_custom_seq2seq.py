"""Resizing the token embeddings of an encoder-decoder model, side by side."""

from typing import Any

from torch import nn

SIDES = ("both", "encoder", "decoder")


class ResizeBySideMixin:
    """`resize_token_embeddings` with a `side`; stands before `PreTrainedModel` among the bases."""

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        side: str | None = None,
    ) -> nn.Module:
        r"""
        Resize token embeddings (and with the decoder's the vocabulary projection); new rows get fresh values, ties
        are kept.

        Args:
            new_num_tokens (`int`, *optional*): The new number of rows; None changes nothing, or pads only.
            pad_to_multiple_of (`int`, *optional*): Round the number of rows up to a multiple of it.
            mean_resizing (`bool`, defaults to `True`): Draw new rows around the mean of the old ones.
            side (`str`, *optional*): `"both"`, `"encoder"` or `"decoder"`; needed where the vocabularies differ.

        Returns:
            The resized embedding: of the decoder with `side="decoder"`, else of the encoder.

        Raises:
            ValueError: No side where one is needed, one side alone of tied sides, or an encoder without token ids.
        """
        config = self.config  # type: ignore[attr-defined]
        encoder, decoder = self.get_encoder(), self.get_decoder()  # type: ignore[attr-defined]
        encoder_size = getattr(config.encoder, "vocab_size", None)
        side = self._resize_side(side, encoder_size, config)
        if new_num_tokens is None and pad_to_multiple_of is None:
            return decoder.get_input_embeddings() if side == "decoder" else encoder.get_input_embeddings()

        arguments: dict[str, Any] = {"pad_to_multiple_of": pad_to_multiple_of, "mean_resizing": mean_resizing}
        if side in ("both", "decoder"):
            # The whole class resizes embedding, projection and bias together, as transformers does for a decoder.
            self._resize_decoder(new_num_tokens, **arguments)
        if side in ("both", "encoder"):
            if config.tie_encoder_decoder_embeddings:  # the weight is one; what the two modules say of it is not
                encoder.get_input_embeddings().num_embeddings = decoder.get_input_embeddings().num_embeddings
                encoder.config.vocab_size = decoder.config.vocab_size
            else:
                encoder.resize_token_embeddings(new_num_tokens, **arguments)
            # The encoder half of T5 or BART has a config of its own; this is the one that is saved.
            config.encoder.vocab_size = encoder.get_input_embeddings().weight.shape[0]
        self.tie_weights()  # type: ignore[attr-defined]
        return decoder.get_input_embeddings() if side == "decoder" else encoder.get_input_embeddings()

    def _resize_side(self, side: str | None, encoder_size: int | None, config: Any) -> str:
        if side is not None and side not in SIDES:
            raise ValueError(f"`side` must be one of {list(SIDES)}, got {side!r}.")
        if side is None and encoder_size != config.vocab_size:
            raise ValueError(
                f"`side` is needed where the vocabularies differ (encoder {encoder_size}, decoder "
                f"{config.vocab_size}), got None. Pass one of {list(SIDES)}."
            )
        side = "both" if side is None else side
        if encoder_size is None and side != "decoder":
            raise ValueError(f"`side` must be 'decoder' with an encoder that reads no token ids, got {side!r}.")
        if config.tie_encoder_decoder_embeddings and side != "both":
            raise ValueError(
                f"`side` must be 'both' with `tie_encoder_decoder_embeddings=True` (one matrix serves both), got "
                f"{side!r}."
            )
        return side

    def _resize_decoder(self, new_num_tokens: int | None, **arguments: Any) -> None:
        decoder, old_head = self.get_decoder(), self.get_output_embeddings()  # type: ignore[attr-defined]
        decoder.resize_token_embeddings(new_num_tokens, **arguments)
        size = decoder.get_input_embeddings().weight.shape[0]
        if old_head is not None:
            head = self._get_resized_lm_head(old_head, size, mean_resizing=arguments["mean_resizing"])  # type: ignore[attr-defined]
            head.requires_grad_(old_head.weight.requires_grad)
            self.set_output_embeddings(head)  # type: ignore[attr-defined]
        self.config.vocab_size = size  # type: ignore[attr-defined]
