"""What runs the kernels of a program on all threads."""
