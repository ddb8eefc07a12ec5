"""One suite over every encoder with every decoder: cheap checks on all pairs, dear ones on a covering set."""

import pytest

from hf_custom_decoder.testing import DEAR_CHECKS, DECODER_CHECKS, DecoderCase
from tests.combinations import ALL_PAIRS, COVERING_PAIRS, DECODERS, ENCODERS


def cases() -> list[object]:
    """Every check on every pair; those of dear checks beyond the covering set are marked `full`."""
    return [
        pytest.param(
            check,
            *pair,
            marks=pytest.mark.full if check in DEAR_CHECKS and pair not in COVERING_PAIRS else (),
            id="-".join([check.replace(" ", "_"), *pair]),
        )
        for check in DECODER_CHECKS
        for pair in ALL_PAIRS
    ]


@pytest.mark.parametrize(("check", "encoder", "decoder"), cases())
def test_every_decoder_with_every_encoder(check: str, encoder: str, decoder: str) -> None:
    DECODER_CHECKS[check](DecoderCase(ENCODERS[encoder](), DECODERS[decoder]()))
