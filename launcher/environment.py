"""Environment variables of a rank that communication and compute libraries read, all in one place."""

from collections.abc import Mapping

_ON_CPUS = {
    # DeepSpeed asks for an accelerator by name; where there is none, it would warn and take this.
    "DS_ACCELERATOR": "cpu",
}

_ON_GPUS = {
    "DS_ACCELERATOR": "cuda",
    # A collective that fails or exceeds the group's time limit ends the process instead of hanging it.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    # What each rank was doing in its last collectives is written out when one exceeds the limit.
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    # Sharded training frees and takes buffers of many sizes: growing segments keep memory in one piece.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # cuBLAS gives the same sums every time only with workspaces of fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def rank_environment(*, use_cuda: bool) -> Mapping[str, str]:
    """What to set before the first use of a device or collective; what the user has set goes first.

    CUDA_DEVICE_MAX_CONNECTIONS=1, which tensor-parallel trainers need, is absent: it would serialise the
    all-gathers that FSDP2 runs beside the computation.
    """
    return _ON_GPUS if use_cuda else _ON_CPUS
