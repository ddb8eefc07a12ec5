"""Read by `evaluate.load` of this folder."""

from hf_custom_decoder.evaluation.evaluate_module import metric_class

Bleu = metric_class("bleu")
