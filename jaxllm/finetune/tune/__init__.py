"""`jaxllm tune`: supervised fine-tuning, reward models, classifiers, and preference optimization.

    from jaxllm import load
    from jaxllm.finetune.tune import TuneConfig, tune

    tuned = tune(load("tiny"), [{"prompt": "Q: 1 + 1? A:", "chosen": " 2", "rejected": " 11"}, ...],
                 config=TuneConfig(method="dpo"))
"""

from jaxllm.finetune.tune.config import TuneConfig
from jaxllm.finetune.tune.tuning import Tuned, tune

__all__ = ["TuneConfig", "Tuned", "tune"]
