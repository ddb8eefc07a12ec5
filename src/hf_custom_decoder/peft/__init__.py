"""
Adapters of `peft` on our models. Importing this package tells peft which modules of them to adapt, so that
`LoraConfig(task_type="SEQ_2_SEQ_LM")` and `IA3Config(...)` need no `target_modules`.
"""

from transformers.utils.import_utils import is_peft_available

from .adapter_configs import get_lora_config, get_prefix_tuning_config, get_prompt_tuning_config
from .chosen_modules import train_only
from .target_modules import register_target_modules
from .tied_copies import tie_saved_modules

__all__ = [
    "get_lora_config",
    "get_prefix_tuning_config",
    "get_prompt_tuning_config",
    "register_target_modules",
    "tie_saved_modules",
    "train_only",
]

if is_peft_available():
    register_target_modules()
