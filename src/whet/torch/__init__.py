"""What Whet does with PyTorch modules; needs the extra ``torch``."""
