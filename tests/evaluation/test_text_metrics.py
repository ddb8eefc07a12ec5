"""Metrics against arithmetic written out here, and their refusals."""

import math

import pytest

from hf_custom_decoder.evaluation.paired_bootstrap import compare_outputs
from hf_custom_decoder.evaluation.text_metrics import check_metric_packages, join_bpe, normalize_answer, score_texts


def test_bleu_of_split_text_is_the_formula() -> None:
    pytest.importorskip("sacrebleu")
    hypothesis, reference = "a b c d e f", "a b c d x f g"
    precisions = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    expected = 100 * math.exp(1 - 7 / 6) * math.prod(precisions) ** 0.25
    score = score_texts(["bleu_tokenized"], [hypothesis], [[reference]])["bleu_tokenized"]
    assert score.value == pytest.approx(expected)
    assert "tok:none" in score.settings
    assert "smooth:none" in score.settings


def test_raw_bleu_cuts_punctuation_off_and_several_references_may_differ_in_number() -> None:
    pytest.importorskip("sacrebleu")
    hypotheses, references = (
        ["one two three four.", "five six seven eight"],
        [["one two three four ."], ["x", "five six seven eight"]],
    )
    scores = score_texts(["bleu", "chrf"], hypotheses, references)
    assert scores["bleu"].value == pytest.approx(100)
    assert "tok:13a" in scores["bleu"].settings
    assert "version:" in scores["chrf"].settings
    assert score_texts(["bleu_tokenized"], hypotheses, references)["bleu_tokenized"].value < 90


def test_rouge_takes_the_best_reference() -> None:
    pytest.importorskip("rouge_score")
    scores = score_texts(["rouge"], ["the cat sat"], [["dogs bark", "the cat ran home"]])
    assert scores["rouge1"].value == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert scores["rouge2"].value == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert scores["rougeL"].value == pytest.approx(scores["rouge1"].value)


def test_squad_scores() -> None:
    assert normalize_answer("The  Cat, a dog!") == "cat dog"
    scores = score_texts(["exact_match", "token_f1"], ["The cat.", "big red dog"], [["a cat"], ["fish", "red dog"]])
    assert scores["exact_match"].value == pytest.approx(50)
    assert scores["token_f1"].value == pytest.approx(100 * (1 + 2 * 2 / 5) / 2)


def test_error_rates() -> None:
    scores = score_texts(["error_rates"], ["K AE T", "D AO"], [["K AE T"], ["X Y Z", "D AO G"]])
    assert scores["wrong_outputs"].value == pytest.approx(50)
    assert scores["token_error_rate"].value == pytest.approx(100 / 6)
    assert not scores["token_error_rate"].greater_is_better


def test_pieces_are_joined() -> None:
    assert join_bpe("lo@@ w er@@", "@@") == "low er"
    assert join_bpe("a@@b c", "@@") == "a@@b c"


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_a_language_whose_tokenizer_is_missing_is_named_before_the_work(
    monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    pytest.importorskip("sacrebleu")
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{language}_mecab.MeCab", None)
    with pytest.raises(ImportError, match=rf'language {language} needs MeCab.* pip install "sacrebleu\[{language}\]"'):
        check_metric_packages(["chrf", "bleu"], language=language)
    with pytest.raises(ImportError, match="needs MeCab"):
        compare_outputs("bleu", ["a"], ["a"], [["a"]], language=language)
    check_metric_packages(["chrf", "bleu_tokenized"], language=language)


def test_a_language_without_a_tokenizer_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="`language` must be one of zh, ja, ko, got 'jp'. Leave it out"):
        check_metric_packages(["bleu"], language="jp")
    with pytest.raises(ValueError, match="got 'jp'"):
        compare_outputs("token_f1", ["a"], ["a"], [["a"]], language="jp")


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got 0 and 0"):
        score_texts(["exact_match"], [], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        score_texts(["exact_match"], ["a", "b"], [["a"]])
    with pytest.raises(ValueError, match=r"`references\[0\]` must hold at least one"):
        score_texts(["exact_match"], ["a"], [[]])
    with pytest.raises(ValueError, match="got 'meteor'"):
        score_texts(["meteor"], ["a"], [["a"]])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"need sacrebleu.*hf_custom_decoder\[evaluate\]"):
        check_metric_packages(["bleu"])
