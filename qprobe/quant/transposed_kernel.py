"""The products of a linear layer whose weight is stored ``[in, out]``."""

from torch import Tensor

from qprobe.quant.products import LinearKernel, Role


class TransposedKernel(LinearKernel):
    """Those of :class:`~qprobe.quant.products.LinearKernel` with the weight turned."""

    def axes(self, role: Role) -> tuple[int, ...]:
        if role.operand == "w":
            return (0,) if role.gemm == "fprop" else (1,)
        return super().axes(role)

    def channel_axes(self, operand: str) -> tuple[int, ...]:
        del operand
        return (1,)

    def fprop(self, x: Tensor, w: Tensor) -> Tensor:
        return super().fprop(x, w.T)

    def dgrad(self, dy: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return super().dgrad(dy, w.T, x)

    def wgrad(self, dy: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return super().wgrad(dy, x, w.T).T
