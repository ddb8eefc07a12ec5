"""The pipelines of transformers over our classes."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

from tests.models.model_cases import make_model


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One id a word, `w3` to `w49`; padding on the left."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 50)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def test_text_generation(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("causal", "rotary")
    prompts = ["w5 w6 w7 w8", "w9"]
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    outputs = generate(prompts, max_new_tokens=4, do_sample=False, batch_size=2, return_full_text=False)
    for prompt, [output] in zip(prompts, outputs, strict=True):
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        words = tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
        assert output["generated_text"].split() == words.split()


def test_feature_extraction(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("encoder")
    ids = torch.tensor([[5, 6, 7]])
    found = pipeline("feature-extraction", model=model, tokenizer=tokenizer)("w5 w6 w7", return_tensors=True)
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected)
