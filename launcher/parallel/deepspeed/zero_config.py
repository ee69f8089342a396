"""DeepSpeed's JSON, rendered from the plan. Nobody writes it by hand."""

from launcher.parallel.config import BUCKET, ParallelConfig
from launcher.plan.batch import BatchShape

SMALL_PARAMETER = 100_000
"""Stage 3 keeps parameters of fewer elements gathered: a round trip costs more than their memory."""


def zero_config(config: ParallelConfig, batch: BatchShape, num_parameters: int) -> dict[str, object]:
    """DeepSpeed's own settings. Clipping, schedule and groups are ours and mean what they mean elsewhere."""
    return {
        "train_batch_size": batch.global_batch_size,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.num_micro,
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_param_persistence_threshold": SMALL_PARAMETER,
            "reduce_bucket_size": min(BUCKET, num_parameters),
            "allgather_bucket_size": min(BUCKET, num_parameters),
        },
        # The engine clips before DeepSpeed's step: one definition of norm and coefficient on every engine.
        "gradient_clipping": 0.0,
        # Autocast over float32 parameters, as in the torch engine. `bf16.enabled` would cast the SSM's
        # tensors, and at stage 0 it takes a phantom Adam step at the start. No module is listed whose
        # gradients could be reduced in bfloat16.
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "communication_data_type": "fp32",
        # Said of every optimizer whose exact class it does not list; the recipe compiler lets only those pass
        # whose update treats each number alone, so that cutting flat buffers changes nothing.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
