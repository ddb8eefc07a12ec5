"""
The language-model head over any decoder of ours.

Legend: R rows, T target length, E width, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from .few_rows_linear_custom_seq2seq import vocabulary_logits
from .loss_custom_seq2seq import IGNORE_INDEX, check_labels, sequence_loss


def select_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """`(R, T, E)` to its last `logits_to_keep` positions, or the positions of a tensor; 0 keeps all."""
    if isinstance(logits_to_keep, int):
        if logits_to_keep < 0:
            raise ValueError(
                "`logits_to_keep` must be a number of last positions (0 for all) or a tensor of positions, got "
                f"{logits_to_keep}. Leave the sign out."
            )
        return hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states
    return hidden_states[:, logits_to_keep]


class CausalHeadMixin:
    """
    `forward` and head of a causal language model; stands before `PreTrainedModel` among the bases of a class that
    calls `build_head` in its constructor.
    """

    accepts_loss_kwargs = True
    model: Any
    training: bool
    lm_head: nn.Module
    config: Any
    generation_config: Any

    def build_head(self, decoder: nn.Module, width: int) -> None:
        """Set `model` and `lm_head` (`width` to V), fresh weights, and the length rule of the generation config."""
        self.model = decoder
        self._is_stateful = bool(decoder._is_stateful)
        self.lm_head = nn.Linear(width, self.config.vocab_size, bias=self.config.lm_head_bias)
        self.post_init()  # type: ignore[attr-defined]
        if self.generation_config.max_length is None or self.generation_config.max_length == 20:
            self.generation_config.max_length = self.config.max_position_embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary projection."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the vocabulary projection."""
        self.lm_head = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **loss_kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions | tuple[torch.Tensor, ...]:
        r"""
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, use_cache, output_attentions, output_hidden_states, return_dict:
                See the decoder.
            labels (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): Token ids, -100 where
                nothing counts; shifted inside, so that position t predicts `labels[:, t + 1]`.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): The last so many positions, or these positions,
                get logits; 0 for all.
            num_items_in_batch (`int` or tensor, *optional*): What the summed loss is divided by, see [`token_loss`].
            loss_kwargs: `shift_labels` (`torch.LongTensor` of shape `(batch_size, target_length)`) alone: labels that
                are shifted already, in place of shifting `labels`. It is no named argument because the Trainer takes
                every argument whose name holds "label" for one that each batch must have.

        Returns:
            [`~transformers.modeling_outputs.CausalLMOutputWithCrossAttentions`]: `loss` in nats a token, `logits` of
            shape `(batch_size, target_length or logits_to_keep, vocab_size)`.

        Raises:
            ValueError: Labels out of range or of another shape than the input; see also the decoder.
            TypeError: A keyword that is none of these.
        """
        shift_labels = loss_kwargs.pop("shift_labels", None)
        if loss_kwargs:
            raise TypeError(
                f"{type(self).__name__}: `forward` takes no {', '.join(f'`{name}`' for name in sorted(loss_kwargs))}. "
                "Leave it out, or correct the name."
            )
        if use_cache is None and (labels is not None or shift_labels is not None):
            use_cache = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        logits = None
        for name, given in (("labels", labels), ("shift_labels", shift_labels)):
            if given is not None and given.shape != hidden_states.shape[:2]:
                raise ValueError(
                    f"{type(self).__name__}: `{name}` must have the shape of the input, "
                    f"{tuple(hidden_states.shape[:2])}, got {tuple(given.shape)}. Use {IGNORE_INDEX} where nothing "
                    "counts."
                )
        if labels is not None and shift_labels is None:
            shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
            if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:  # padding predicts nothing
                is_padding = attention_mask[:, -labels.shape[1] :] == 0
                shift_labels = shift_labels.masked_fill(is_padding, IGNORE_INDEX)
        if shift_labels is None or not self.training:
            logits = vocabulary_logits(self.lm_head, select_positions(hidden_states, logits_to_keep))
        loss = None
        if shift_labels is not None:
            check_labels(shift_labels, self.config.vocab_size)
            keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
            complete = logits if keeps_all else None
            loss = sequence_loss(
                hidden_states, complete, shift_labels, self.lm_head, num_items_in_batch=num_items_in_batch
            )
        output = CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )
        return output if return_dict is not False else output.to_tuple()
