"""All environment variables of a rank that communication and compute libraries read."""

from collections.abc import Mapping

OF_EVERY_PROCESS = {
    # Before torch is imported. Its C++ part writes a stack for every connection that another process closes;
    # what ended the attempt is said once, by the agent.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

STORE_FILE = "LAUNCH_STORE"
"""Variable of a rank: the file in which the ranks of one node find each other. Unset: that of torchrun."""

ON_ONE_NODE = {
    # Whoever can connect to a rank can have it do anything. torch's stores listen on all interfaces, so there
    # is none: agent and ranks meet in a file. gloo and NCCL listen on this interface only.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}

_ON_CPUS = {
    # Without it, DeepSpeed warns that it found no accelerator, and then uses this one.
    "DS_ACCELERATOR": "cpu",
}

_ON_GPUS = {
    "DS_ACCELERATOR": "cuda",
    # A collective that fails or exceeds the group's time limit ends the process instead of hanging it.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    # When a collective exceeds the limit, each rank writes a record of its last collectives.
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    # NCCL's own monitor ends a process whose NCCL thread is stuck, without a word about the cause. Longer
    # than any limit of our watchdog, which names the rank first.
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "7200",
    # Sharded training frees and allocates buffers of many sizes; segments that grow reduce fragmentation.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # cuBLAS gives the same sums every time only with workspaces of fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def rank_environment(*, use_cuda: bool) -> Mapping[str, str]:
    """Variables to set before the first use of a device or collective, unless the user has set them.

    CUDA_DEVICE_MAX_CONNECTIONS=1, which tensor-parallel trainers need, is absent: it would serialize
    FSDP2's all-gathers, which should overlap with computation.
    """
    return _ON_GPUS if use_cuda else _ON_CPUS
