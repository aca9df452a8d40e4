"""One process or several: who this one is, and how the processes agree."""

import inspect
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from eqmambair.engine.schema import Options
from eqmambair.errors import UserError

_log = logging.getLogger("eqmambair")
Launcher = Literal["none", "pytorch", "slurm"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among all of the run.

    Args:
        rank: number of this process, from 0.
        world: how many there are.
        device: what it computes on.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def largest(self, *values: float) -> list[float]:
        """The largest over all processes of each value."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(value) for value in tensor.tolist()]

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Means over all processes; every process must have the same keys."""
        if self.world == 1 or not values:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, (tensor / self.world).tolist(), strict=True))

    def from_main(self, value: Any) -> Any:
        """What the main process has."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def on_main(self, action: Callable[[], Result]) -> Result:
        """What ``action`` returns in the main process; a ``UserError`` of it is one of every process, so that none waits for another."""
        outcome: tuple[Any, str | None] = None, None
        if self.is_main:
            try:
                outcome = action(), None
            except UserError as error:
                outcome = None, str(error)
        result, problem = self.from_main(outcome)
        if problem is not None:
            raise UserError(problem)
        return result  # type: ignore[no-any-return]

    def copy_from_main(self, tensors: list[torch.Tensor]) -> None:
        """Give tensors of one type the values that they have in the main process."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.broadcast(flat, src=0)
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(values.view_as(tensor))

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.world > 1:
            self.largest(0)


@contextmanager
def processes(launcher: Launcher, options: Options) -> Iterator[Ranks]:
    """Join the other processes of the run, and leave them at the end.

    ``torchrun`` and ``torch.distributed.launch`` tell through environment variables, whatever ``launcher`` says; slurm through its own.
    """
    if launcher == "slurm":
        _environment_from_slurm(options.dist_params.port)
    world = _number("WORLD_SIZE", 1)
    local = _number("LOCAL_RANK", _number("RANK", 0))
    device = choose_device(options.num_gpu, local)
    if launcher == "none" and world == 1:
        yield Ranks(device=device)
        return
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        raise UserError(f"--launcher {launcher}: start the command with torchrun or python -m torch.distributed.launch")
    backend = options.dist_params.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and device.type != "cuda":
        _log.warning("dist_params.backend: nccl needs GPUs; gloo is used")
        backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=options.dist_params.timeout_minutes))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of the run cannot be joined: {' '.join(str(error).split())[:200]}") from None
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def joined(network: nn.Module, devices: list[int] | None, unused: bool) -> nn.Module:
    """The network with gradients averaged over all processes; buffers are left to ``Ranks.copy_from_main``."""
    wrapper = nn.parallel.DistributedDataParallel
    known = inspect.signature(wrapper).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # the newer name first
    options: dict[str, Any] = {"find_unused_parameters": unused, buffers: False}
    return wrapper(network, device_ids=devices, **options)


def choose_device(num_gpu: int | str, local_rank: int = 0) -> torch.device:
    """The device that ``num_gpu`` asks for: the CPU for 0 or where there is no GPU."""
    if num_gpu == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    if not value:
        return default
    if not (value.isascii() and value.isdecimal()):
        raise UserError(f"the environment variable {name} must be a number, found {value!r}")
    return int(value)


def _environment_from_slurm(port: int | None) -> None:
    for name in ("SLURM_PROCID", "SLURM_NTASKS"):
        if name not in os.environ:
            raise UserError(f"--launcher slurm: not started by srun ({name} is missing)")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ.setdefault("MASTER_PORT", str(port or 29500))
    if "MASTER_ADDR" not in os.environ:
        try:
            hosts = subprocess.run(["scontrol", "show", "hostnames"], capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"--launcher slurm: scontrol does not tell the first host ({error}); set MASTER_ADDR") from None
        if not hosts:
            raise UserError("--launcher slurm: scontrol names no host; set MASTER_ADDR")
        os.environ["MASTER_ADDR"] = hosts[0]
