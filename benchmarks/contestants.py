"""Who takes turns: the textbook's loops, the library's engine, the bare convolutions.

Each is a function of a batch, contiguous images and labels; a network in channels_last brings
whatever it is given into that format.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import loops
from benchmarks.settings import PGD7, Bench
from robust_transfer.attacks import PGD
from robust_transfer.training import engine, loop
from robust_transfer.training.loop import TrainingConfig

Work = Callable[[Tensor, Tensor], object]
LAST = torch.channels_last


def textbook_attack(model: nn.Module, attack: PGD, **how: bool) -> Work:
    """The textbook's attack; see ``loops.attack_batch`` for how."""
    return lambda x, y: loops.attack_batch(model, x, y, attack, **how)


def our_attack(model: nn.Module, attack: PGD, precision: engine.Precision) -> Work:
    """The library's attack; the network is folded anew for every batch, on the clock."""
    return lambda x, y: attack(engine.folded(model, precision), x, y)


def textbook_step(bench: Bench, model: nn.Module, autocast: bool = False) -> Work:
    """The textbook's training step."""
    config = step_config(bench, "fp32", PGD7)
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )
    return lambda x, y: loops.train_batch(model, optimizer, x, y, config.attack, autocast)


def our_step(
    bench: Bench, model: nn.Module, precision: engine.Precision, attack: PGD = PGD7
) -> Work:
    """The library's training step; the loss it returns outlives the next step."""
    config = step_config(bench, precision, attack)
    step = loop.Step(model.to(memory_format=LAST), config)
    return lambda x, y: step(x, y, 0).clone()


def step_config(bench: Bench, precision: engine.Precision, attack: PGD) -> TrainingConfig:
    """Training on where the network stands, at a rate that stays."""
    changes = {"attack": attack, "precision": precision}
    changes |= {"schedule": "step", "decay_epochs": (), "learning_rate": 0.01}
    return bench.config.model_copy(update=changes)


def training_pass(model: nn.Module, compiled: bool) -> Work:
    """Forward and backward of a batch in train mode under bf16 autocast."""
    model = model.to(memory_format=LAST).train()
    run = torch.compile(model) if compiled else model

    def work(images: Tensor, labels: Tensor) -> None:
        model.zero_grad()
        loops.cross_entropy(run, images, labels, autocast=True).backward()

    return work


def bare_convolutions(bench: Bench) -> dict[str, loops.Convolutions]:
    """The network's convolutions alone, by name, in both precisions."""
    model, (images, _) = bench.network(), bench.batch(0)
    return {
        f"convolutions {name}": loops.Convolutions(model, images, dtype)
        for name, dtype in engine.DTYPES.items()
    }
