"""The suite that every decoder passes, for those who write one."""

from .check_decoder import DecoderCheckError, check_decoder, decoder_case
from .decoder_case import DecoderCase
from .decoder_checks import DEAR_CHECKS, DECODER_CHECKS
from .fresh_process import loads_in_a_fresh_process

__all__ = [
    "DEAR_CHECKS",
    "DECODER_CHECKS",
    "DecoderCase",
    "DecoderCheckError",
    "check_decoder",
    "decoder_case",
    "loads_in_a_fresh_process",
]
