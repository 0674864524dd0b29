"""Quantised attention in PyTorch: the arithmetic of sage2-eval's emulation, on any machine and inside any model."""
