"""Gather tensors of all processes, with gradient, and reduce numbers over them. With a single process, every function
returns its input."""

import torch
import torch.distributed as torch_dist
from mmengine.dist import get_rank, get_world_size
from torch import Tensor


class _GatherWithGradient(torch.autograd.Function):
    """Concatenate the tensors of all processes along dim 0. In the backward pass, each process gets the gradient of its
    own part, summed over all processes.

    If all processes compute the same loss and DDP averages their gradients, the parameters get exactly the gradient
    that a single process would compute for the whole batch.
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
    """Mean of a number over all processes, without gradient."""
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
