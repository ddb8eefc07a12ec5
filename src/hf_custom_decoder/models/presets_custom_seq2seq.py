"""Known shapes by name, as fields of the configs."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "transformer-tiny": {
        "num_hidden_layers": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "dropout": 0.3,
    },
    "transformer-base": {
        "num_hidden_layers": 6,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "dropout": 0.1,
    },
    "transformer-big": {
        "num_hidden_layers": 6,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "dropout": 0.3,
    },
}
"""Published shapes: tiny of Wu et al. 2021 (Multi30k), base and big of Vaswani et al. 2017, table 3."""

RECURRENT_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gru-attention": {
        "shared": {"cell_type": "gru", "num_hidden_layers": 1, "embedding_size": 620, "dropout": 0.0},
        "encoder": {"hidden_size": 2000, "bidirectional": True},
        "decoder": {
            "hidden_size": 1000,
            "attention_type": "additive",
            "attentional_layer": False,
            "bridge_type": "linear",
            "readout_sizes": [500],
            "readout_act": "tanh",
        },
    },
    "lstm-luong": {
        "shared": {"cell_type": "lstm", "num_hidden_layers": 4, "hidden_size": 1000, "dropout": 0.2},
        "encoder": {"bidirectional": False},
        "decoder": {"attention_type": "general", "input_feeding": True, "bridge_type": "copy"},
    },
    "gru-textbook": {
        "shared": {"cell_type": "gru", "num_hidden_layers": 2, "hidden_size": 256, "dropout": 0.2},
        "encoder": {"bidirectional": False},
        "decoder": {"attention_type": "none", "bridge_type": "copy", "readout_sizes": [256], "lm_head_bias": True},
    },
}
"""Sizes of Bahdanau et al. 2015, of Luong et al. 2015, and of tutorials; see [`CustomSeq2SeqConfig.from_preset`]."""

PRESET_NAMES = sorted([*PRESETS, *RECURRENT_PRESETS, "ssru-base"])
