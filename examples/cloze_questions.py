r"""Questions made of unlabelled text, to pre-train a question answering model on.

    python examples/cloze_questions.py --column context source --sentences 2 --output runs/cloze-short.jsonl.gz \
        --text ../shared/data/squad-mini/train.jsonl.gz ../shared/data/scitldr/train.jsonl.gz

A span of a sentence (a name, a number, a few words) becomes the answer. The question is the rest of the sentence with
`who`, `when`, `how many` or `what` in its place, some words left out; the context is the sentence with some of its
neighbours. After the cloze questions with noise of Lewis, Denoyer and Riedel 2019, "Unsupervised Question Answering by
Cloze Translation", with names and numbers found by their letters where they use a tagger. A model that answers them
has learned to find in the context the sentence that the question speaks of, and to copy from it.

Each row of the output is {"context", "question", "answers", "sentence"}, the last the sentence that the question was
made of. The run takes seconds and prints

    28,010 questions in runs/cloze-short.jsonl.gz

examples/recipes/squad_mini_pretrain.yaml trains a model on them.
"""

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_custom_decoder.atomic_files import temporary_name
from hf_custom_decoder.data.text_files import read_lines

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
YEAR = re.compile(r"(1\d|20)\d\d")
EDGE = "\"'()[]{},;:.!?"  # not part of an answer
FUNCTION_WORDS = frozenset(
    "a an and are as at be been but by for from had has have he her his if in into is it its nor not of on or our she"
    " so such than that the their them then there these they this those to was we were when where which who whose will"
    " with".split()
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="JSON Lines files, packed by gzip or not")
    parser.add_argument(
        "--column", nargs="+", required=True, help="column of the text; one for all files or one for each"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON Lines file to write; .gz behind it packs it")
    parser.add_argument("--per_sentence", type=int, default=3, help="questions of a sentence, at most")
    parser.add_argument("--sentences", type=int, default=6, help="most sentences of a context; 0 for the whole text")
    parser.add_argument("--keep", type=float, default=0.7, help="share of a sentence's words that its question keeps")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def texts_of(file: Path, column: str) -> Iterator[str]:
    """The different texts of a column, in the order of the file."""
    seen = set()
    for line in read_lines(file):
        row = json.loads(line)
        if column not in row:
            raise SystemExit(f"{file} has no column {column!r}: it has {', '.join(row)}")
        if row[column] not in seen:
            seen.add(row[column])
            yield row[column]


def is_name(word: str) -> bool:
    return word[:1].isupper()


def is_number(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def spans_of(words: Sequence[str], chance: random.Random) -> list[tuple[int, int]]:
    """Where answers may lie: runs of names, of numbers with the word behind them, and one run of other words.

    The first word has a capital letter for another reason, so it begins no run of names.
    """
    spans = []
    bare = [word.strip(EDGE) for word in words]
    at = 1
    while at < len(words):
        end = at
        test = is_number if is_number(bare[at]) else is_name
        while end < len(words) and test(bare[end]):
            end += 1
            if words[end - 1] != bare[end - 1]:  # a comma or a bracket ends it
                break
        if end > at:
            spans.append((at, end))
        at = max(end, at + 1)
    starts = [one for one in range(len(words)) if bare[one].lower() not in FUNCTION_WORDS]
    if starts:
        start = chance.choice(starts)
        end = min(len(words), start + chance.randint(1, 4))
        while end > start + 1 and bare[end - 1].lower() in FUNCTION_WORDS:
            end -= 1
        spans.append((start, end))
    return spans


def question_word(answer: str) -> str:
    if YEAR.search(answer):
        return "when"
    if is_number(answer):
        return "how many"
    return "who" if is_name(answer) and " " in answer else "what"


def context_of(sentences: Sequence[str], at: int, most: int, chance: random.Random) -> str:
    """A run of sentences with number `at` among them."""
    if not most:
        return " ".join(sentences)
    count = min(chance.randint(1, most), len(sentences))
    start = chance.randint(max(0, at - count + 1), min(at, len(sentences) - count))
    return " ".join(sentences[start : start + count])


def questions_of(text: str, asked: argparse.Namespace, chance: random.Random) -> Iterator[dict[str, object]]:
    sentences = SENTENCE_END.split(text)
    for place, sentence in enumerate(sentences):
        words = sentence.split()
        if len(words) < 6:
            continue
        spans = spans_of(words, chance)
        for start, end in chance.sample(spans, min(asked.per_sentence, len(spans))):
            answer = " ".join(words[start:end]).strip(EDGE)
            before = [word for word in words[:start] if chance.random() < asked.keep]
            behind = [word for word in words[end:] if chance.random() < asked.keep]
            if not answer or len(before) + len(behind) < 3:
                continue
            opening = question_word(answer)
            if chance.random() < 0.3:
                parts = [*before, opening, *behind]
            else:
                parts = [opening, *behind, *before] if chance.random() < 0.5 else [opening, *before, *behind]
            question = " ".join(parts).rstrip(".,;:!?") + "?"
            context = context_of(sentences, place, asked.sentences, chance)
            yield {
                "context": context,
                "question": question[:1].upper() + question[1:],
                "answers": [answer],
                "sentence": sentence,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parse_arguments(arguments)
    for name, least in (("per_sentence", 1), ("sentences", 0)):
        if getattr(asked, name) < least:
            raise SystemExit(f"`--{name}` must be at least {least}, got {getattr(asked, name)}.")
    if not 0.0 < asked.keep <= 1.0:
        raise SystemExit(f"`--keep` must be above 0 and at most 1, got {asked.keep}.")
    columns = asked.column * len(asked.text) if len(asked.column) == 1 else asked.column
    if len(columns) != len(asked.text):
        raise SystemExit(
            f"--column takes one name, or as many as there are files ({len(asked.text)}): {len(columns)} given"
        )
    chance = random.Random(asked.seed)
    count = 0
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_name(asked.output) as unfinished:
        packed = asked.output.suffix == ".gz"
        written = gzip.open(unfinished, "wt", encoding="utf-8") if packed else unfinished.open("w", encoding="utf-8")
        with written as out:
            for file, column in zip(asked.text, columns, strict=True):
                for text in texts_of(file, column):
                    for row in questions_of(text, asked, chance):
                        out.write(json.dumps(row, ensure_ascii=False) + "\n")
                        count += 1
    print(f"{count:,} questions in {asked.output}")


if __name__ == "__main__":
    main()
