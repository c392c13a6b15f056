"""A published network as a plain PyTorch module on images in [0, 1]."""

import robust_transfer as rt
from robust_transfer.attacks import PGD, share_right
from robust_transfer.data.registry import load

model = rt.load("pgd-pgd-all", profile="smoke")  # or "overnight"

test = load("glyphs10", "test", 100)  # or "cifar10", data_dir="DIR"
images, labels = next(test.batches(100))
attacked = PGD(steps=20)(model, images, labels)
print(f"natural {share_right(model(images), labels).mean():.0%}")
print(f"PGD-20 {share_right(model(attacked), labels).mean():.0%}")
