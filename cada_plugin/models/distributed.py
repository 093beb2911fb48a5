"""Tensors of all processes in one, with gradient. Every function is the identity where there is one process."""

import torch
import torch.distributed as torch_dist
from mmengine.dist import get_rank, get_world_size
from torch import Tensor


class _GatherWithGradient(torch.autograd.Function):
    """Concatenate along dim 0; the gradient of this process's part is summed over what every process made of it.

    With a loss computed alike on all processes and gradients averaged over them (DDP), parameters then get exactly the
    gradient of one process holding the whole batch.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.size = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(get_world_size())]
        torch_dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        torch_dist.all_reduce(grad)
        return grad[get_rank() * ctx.size :][: ctx.size]


def gather(x: Tensor) -> Tensor:
    """(B, ...) of each process -> (B * processes, ...), in rank order. Every process must hold the same shape."""
    return x if get_world_size() == 1 else _GatherWithGradient.apply(x)


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of a number over processes, without gradient."""
    if get_world_size() == 1:
        return x
    x = x.detach().float().clone()
    torch_dist.all_reduce(x)
    return x / get_world_size()


def max_over_processes(number: int, device: torch.device) -> int:
    if get_world_size() == 1:
        return number
    value = torch.tensor(number, device=device)
    torch_dist.all_reduce(value, torch_dist.ReduceOp.MAX)
    return int(value)
