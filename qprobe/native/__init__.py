"""Optional C kernels."""
