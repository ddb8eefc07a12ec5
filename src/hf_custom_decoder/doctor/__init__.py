"""Whether an encoder-decoder model can be trusted: named checks with a verdict and a sentence each."""

from .findings import DoctorReport, Finding, Verdict
from .patient import Limits
from .run_doctor import CHECK_NAMES, examine, examine_model

__all__ = ["CHECK_NAMES", "DoctorReport", "Finding", "Limits", "Verdict", "examine", "examine_model"]
