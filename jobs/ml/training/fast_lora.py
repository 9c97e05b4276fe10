"""LoRA layers that compute in the base model's type, and keep little for the backward pass.

PEFT computes an adapter in fp32: of each layer it makes an fp32 copy of the input, keeps that until the
backward pass (of query, key and value, which share their input, three), and takes its products through
fp32 several times. Here weights stay fp32, as the optimiser wants them, and what is computed with them is
in the base's type; the input is kept as it is, once, whichever layers share it; dropout's mask is drawn
again instead of kept; and what the adapter adds is added within the matrix product. In fp32 and without
dropout the results are PEFT's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.autograd.function import once_differentiable


def speed_up(peft_model: Any) -> int:
    """Let a PeftModel's LoRA layers compute fast while it is trained; how many do.

    Left as they are: layers over anything but a plain linear one (a quantised one, GPT-2's), with a trained
    base weight, and variants of LoRA. In evaluation all compute as PEFT does. Names, weights and what is saved stay.
    """
    layers = [module for module in peft_model.modules() if _is_plain(module)]
    for layer in layers:
        layer.__class__ = FastLinear
    return len(layers)


def _is_plain(module: Any) -> bool:
    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear:
        return False
    is_frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    has_bias = any(one.bias is not None for one in module.lora_B.values())
    return is_frozen and not has_bias and not module.lora_variant and len(module.lora_A) == 1


class FastLinear(Linear):
    """PEFT's LoRA layer, computing as the module's text says; made by `speed_up` alone."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As PEFT's: [..., width in] to [..., width out]."""
        if not self.training or self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        (name,) = self.lora_A
        base, dropout = self.base_layer, getattr(self.lora_dropout[name], "p", 0.0)
        # What is scaled are the adapter's weights: they are far smaller than what goes through them.
        down = (self.lora_A[name].weight / (1 - dropout)).to(x.dtype)
        up = (self.lora_B[name].weight * self.scaling[name]).to(x.dtype)
        if torch.compiler.is_compiling():  # it fuses better what it sees through
            kept = x * (torch.rand_like(x, dtype=torch.float32) >= dropout) if dropout else x
            return base(x) + torch.nn.functional.linear(torch.nn.functional.linear(kept, down), up)
        seed = int(torch.randint(2**62, ())) if dropout else None
        result = _LoraLinear.apply(x.flatten(0, -2), base.weight, base.bias, down, up, dropout, seed)
        return result.unflatten(0, x.shape[:-1])


class _LoraLinear(torch.autograd.Function):
    """x·Wᵀ + bias + ((mask ∘ x)·Aᵀ)·Bᵀ.

    x is [tokens, in], W (frozen) [out, in], A (`down`) [rank, in] and B (`up`) [out, rank]; the mask follows
    from the seed, and is ones without one.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - torch's way of calling
        ctx: Any, x: Any, weight: Any, bias: Any, down: Any, up: Any, dropout: float, seed: int | None
    ) -> torch.Tensor:
        ctx.dropout, ctx.seed = dropout, seed
        kept = x if seed is None else _mask(x, dropout, seed).mul_(x)
        hidden = kept @ down.T
        result = torch.nn.functional.linear(x, weight, bias)
        result.addmm_(hidden, up.T)
        ctx.save_for_backward(x, weight, down, up, hidden)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight, down, up, hidden = ctx.saved_tensors
        mask = None if ctx.seed is None else _mask(x, ctx.dropout, ctx.seed)
        grad_hidden = grad @ up
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if mask is None:
                grad_x.addmm_(grad_hidden, down)
            else:
                grad_x.addcmul_(grad_hidden @ down, mask)
        kept = x if mask is None else mask.mul_(x)
        return grad_x, None, None, grad_hidden.T @ kept, grad.T @ hidden, None, None


def _mask(x: torch.Tensor, dropout: float, seed: int) -> torch.Tensor:
    """Zeros, in that share, and ones; as large as x, and for equal seeds the same."""
    return torch.empty_like(x).bernoulli_(1 - dropout, generator=torch.Generator(x.device).manual_seed(seed))
