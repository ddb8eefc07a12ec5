"""Tests of hf_custom_decoder; a package so that helpers are imported as `tests.name` from every folder."""
