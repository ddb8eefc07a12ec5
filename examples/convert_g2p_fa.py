"""Persian words to IPA: the LSTM of the package g2p-fa as a folder for the Hub.

    pip install hf-custom-decoder
    pip install --no-deps g2p-fa==1.1.0
    python examples/convert_g2p_fa.py --output outputs/g2p_fa

Nothing of the package is imported, so it needs nothing beside it. The run takes five seconds on a laptop CPU, prints

    سلام: sælɒːm
    طلا: tʰelɒː
    تلاش: tʰælɒːʃ
    دانشگاه: dɒːnʃɡɒːh
    outputs/g2p_fa: 1,675,617 parameters, ready for the Hub

and leaves a folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` load with `trust_remote_code=True` where neither
hf_custom_decoder nor the package is installed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hf_custom_decoder.conversion import convert_g2p_fa, g2p_fa_tokenizer

WORDS = ["سلام", "طلا", "تلاش", "دانشگاه"]

CARD = """---
language: fa
license: mit
library_name: transformers
pipeline_tag: text2text-generation
tags: [encoder-decoder, custom_code, grapheme-to-phoneme]
---

# Persian words to IPA, LSTM

Two LSTM layers read the letters of a word, two more write its sounds in IPA; no attention.

The weights are those of the Python package g2p-fa 1.1.0 (<https://github.com/de-mh/g2p_fa>), by Mohamadhosein
Dehghani, under the MIT License as the package states it; `hf_custom_decoder` has carried them over unchanged. Greedy
search gives the outputs of the package in evaluation mode on all 1,070 words that they were compared on.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = "g2p_fa"  # this folder, or its name on the Hub
model = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
inputs = tokenizer(["سلام"], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```

## What to know

- The package leaves its dropout on, so its own answers vary from call to call; here they do not.
- The encoder reads the padding behind a word, up to 30 tokens, as if it were text. The tokenizer writes it as `<fill>`
  tokens, which the attention mask does not hide. Use this tokenizer: without them other sounds come out.
- One word of up to 28 letters at a time; longer ones are cut. Letters other than those of the package (Arabic ي and ك,
  digits, the zero-width non-joiner) read as the end of the word.
- The tokenizer reads IPA targets too (`text_target="sælɒːm"`), for further training.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/g2p_fa"), help="where the folder goes")
    parser.add_argument("--package", type=Path, help="folder of the unpacked package; by default the installed one")
    options = parser.parse_args(arguments)

    model, tokenizer = convert_g2p_fa(options.package), g2p_fa_tokenizer()
    inputs = tokenizer(WORDS, return_tensors="pt", padding=True)
    texts = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    for word, text in zip(WORDS, texts, strict=True):
        print(f"{word}: {text}")

    model.save_pretrained(options.output)  # weights, config, generation config, and the code to load them
    tokenizer.save_pretrained(options.output)
    card = CARD.replace('name = "g2p_fa"', f'name = "{options.output.name}"')
    (options.output / "README.md").write_text(card, encoding="utf-8")
    print(f"{options.output}: {model.num_parameters():,} parameters, ready for the Hub")


if __name__ == "__main__":
    main()
