"""Latin letters to Khmer script: the GRU with attention of netra-transliterate as a folder for the Hub.

    pip install hf-custom-decoder[conversion]
    pip install --no-deps netra-transliterate==1.0.1
    python examples/convert_netra.py --output outputs/netra_transliterate

Nothing of the package is imported, so it needs nothing beside it. The run takes five seconds on a laptop CPU, prints

    brodae: ប្រដែ
    sokha: សខា
    Battambang: បាត់តំបង
    phnom penh: ភ្នំពេញ
    outputs/netra_transliterate: 89,521 parameters, ready for the Hub

and leaves a folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` load with `trust_remote_code=True` where neither
hf_custom_decoder nor the package is installed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hf_custom_decoder.conversion import convert_netra, netra_tokenizer

WORDS = ["brodae", "sokha", "Battambang", "phnom penh"]

CARD = """---
language: km
license: mit
library_name: transformers
pipeline_tag: text2text-generation
tags: [encoder-decoder, custom_code, transliteration]
---

# Latin letters to Khmer script, GRU with attention

A GRU layer in two directions reads romanized Khmer, another GRU layer with additive attention writes it in Khmer
script.

The weights are those of the Python package netra-transliterate 1.0.1
(<https://github.com/darayutnhem009/khmer-english-transliteration>), by Darayut Nhem, under the MIT License as the
package states it; `hf_custom_decoder` has carried them over unchanged. Greedy search gives the outputs of the package
with one beam on all 1,012 words that they were compared on.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = "netra_transliterate"  # this folder, or its name on the Hub
model = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
inputs = tokenizer(["brodae"], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```

## What to know

- The package searches with three beams in a way of its own (it stops after three finished beams, however improbable,
  and may answer with an unfinished one) and can look its answers up in a dictionary. Neither is in this folder; with
  `num_beams=3, length_penalty=0.0` transformers' search gives the package's answer to 884 of the 1,012 words.
- Encoder and attention read the padding behind a word, up to 25 letters, as if it were text. The tokenizer writes it
  as `<fill>` tokens, which the attention mask does not hide.
- All but the letters a to z is dropped, blanks too; of longer words the last 25 letters are read.
- The tokenizer reads Khmer targets too (`text_target="ប្រដែ"`), for further training.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/netra_transliterate"), help="where the folder goes"
    )
    parser.add_argument("--package", type=Path, help="folder of the unpacked package; by default the installed one")
    options = parser.parse_args(arguments)

    model, tokenizer = convert_netra(options.package), netra_tokenizer(options.package)
    inputs = tokenizer(WORDS, return_tensors="pt", padding=True)
    texts = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    for word, text in zip(WORDS, texts, strict=True):
        print(f"{word}: {text}")

    model.save_pretrained(options.output)  # weights, config, generation config, and the code to load them
    tokenizer.save_pretrained(options.output)
    card = CARD.replace('name = "netra_transliterate"', f'name = "{options.output.name}"')
    (options.output / "README.md").write_text(card, encoding="utf-8")
    print(f"{options.output}: {model.num_parameters():,} parameters, ready for the Hub")


if __name__ == "__main__":
    main()
