"""Networks: the CIFAR family, torchvision's backbones, and what a transfer does to one."""
