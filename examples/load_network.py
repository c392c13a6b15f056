"""A published network as a plain PyTorch module on images in [0, 1]."""

from robust_transfer import paths
from robust_transfer.attacks import PGD, share_right
from robust_transfer.data.registry import load
from robust_transfer.davchev2019 import experiment
from robust_transfer.records.store import Store

profile = experiment.read_profile(paths.PROFILES / "smoke.yaml")  # or overnight.yaml
networks = {network.id: network for network in experiment.grid(profile)}
store = Store("results", paths.PUBLISHED / profile.profile)
model = store.model(networks["pgd-pgd-all"].config)

test = load(profile.target_dataset, "test", 100)  # data_dir="DIR" for CIFAR
images, labels = next(test.batches(100))
attacked = PGD(steps=20)(model, images, labels)
print(f"natural {share_right(model(images), labels).mean():.0%}")
print(f"PGD-20 {share_right(model(attacked), labels).mean():.0%}")
