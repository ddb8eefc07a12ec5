"""English words to phonemes: the GRU of the package g2p_en as a folder for the Hub.

    pip install hf-custom-decoder
    pip install --no-deps g2p_en==2.1.0
    python examples/convert_g2p_en.py --output outputs/g2p_en

Nothing of the package is imported, so it needs nothing beside it. The run takes five seconds on a laptop CPU, prints

    activationist: AE2 K T IH0 V EY1 SH AH0 N IH0 S T
    hackathon: HH AE1 K AH0 TH AH0 N
    Zuber: Z UW1 B ER0
    naïve: N EY1 V
    outputs/g2p_en: 853,066 parameters, ready for the Hub

and leaves a folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` load with `trust_remote_code=True` where neither
hf_custom_decoder nor the package is installed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hf_custom_decoder.conversion import convert_g2p_en, g2p_en_tokenizer

WORDS = ["activationist", "hackathon", "Zuber", "naïve"]

CARD = """---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text2text-generation
tags: [encoder-decoder, custom_code, grapheme-to-phoneme]
---

# English words to phonemes, GRU

One GRU layer reads the letters of a word, another writes its phonemes (ARPAbet with stress); no attention.

The weights are those of the Python package g2p_en 2.1.0 (<https://github.com/Kyubyong/g2p>), by Kyubyong Park and
Jongseok Kim, under the Apache License 2.0 as the package states it; `hf_custom_decoder` has carried them over
unchanged. Greedy search gives the outputs of the package (its network, without its dictionary) on all 1,115 words
that they were compared on.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = "g2p_en"  # this folder, or its name on the Hub
model = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
inputs = tokenizer(["activationist"], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```

## What to know

- The package asks this network only for words that are not in the CMU Pronouncing Dictionary, after it has written out
  numbers and chosen among homographs. Do the same before it: words that are not spelled as they sound come out wrong.
- One word at a time. Capitals and accents are dropped; apostrophes, hyphens and digits are unknown to it.
- Write words such as "b" or "th" in lower case: in capitals they are taken for phonemes, which is how the same
  tokenizer reads targets (`text_target="K AE1 T"`) in further training.
- An output has at most 20 tokens, the end included, as in the package.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/g2p_en"), help="where the folder goes")
    parser.add_argument("--package", type=Path, help="folder of the unpacked package; by default the installed one")
    options = parser.parse_args(arguments)

    model, tokenizer = convert_g2p_en(options.package), g2p_en_tokenizer()
    inputs = tokenizer(WORDS, return_tensors="pt", padding=True)
    texts = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    for word, text in zip(WORDS, texts, strict=True):
        print(f"{word}: {text}")

    model.save_pretrained(options.output)  # weights, config, generation config, and the code to load them
    tokenizer.save_pretrained(options.output)
    card = CARD.replace('name = "g2p_en"', f'name = "{options.output.name}"')
    (options.output / "README.md").write_text(card, encoding="utf-8")
    print(f"{options.output}: {model.num_parameters():,} parameters, ready for the Hub")


if __name__ == "__main__":
    main()
