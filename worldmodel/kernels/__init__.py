"""Operations of the transformer and of imagination: each in one file, as a Triton kernel and in plain torch.

`choose("torch")` sets which of the two this process uses; by default it is Triton on CUDA and torch on CPU.
"""

from worldmodel.kernels.dispatch import choose, chosen

__all__ = ["choose", "chosen"]
