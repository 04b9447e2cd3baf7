"""`train.pretrain` in processes on CPUs, sharded as Accelerate would shard it on GPUs; for test_sharded_teacher.py.

Accelerate shards on GPUs only. So that its own code cuts up the model here too, it is told that these processes have
some, and that the device is a CPU.
"""

import os
import sys

import torch
from accelerate import DistributedType, PartialState

from train.pretrain import main

if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    sys.exit(main())
