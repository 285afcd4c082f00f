"""The .pte format of ExecuTorch, with integer kernels of XNNPACK."""
