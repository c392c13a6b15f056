"""Attacks, training steps, and what each trick brings: contestants in turns on the same batches."""

import time
from contextlib import ExitStack

from benchmarks.accuracy import judge
from benchmarks.clock import compare, row, turns
from benchmarks.contestants import (
    LAST,
    Work,
    bare_convolutions,
    our_attack,
    our_step,
    textbook_attack,
    textbook_step,
    training_pass,
)
from benchmarks.growth import processes, run_side_by_side
from benchmarks.loops import fold_batch_norm
from benchmarks.peers import PEERS
from benchmarks.settings import ATTACKS, PGD7, Bench
from robust_transfer.training.engine import DTYPES


def attacks(bench: Bench) -> dict:
    """Images/s of the attacks: textbook, ours, peers, bare convolutions; and how well they fool."""
    contestants: dict[tuple[str, str, str], Work] = {}
    bare = bare_convolutions(bench)
    for title, attack in ATTACKS.items():
        contestants[title, "textbook", "textbook"] = textbook_attack(bench.network(), attack)
        for precision in DTYPES:
            ours = our_attack(bench.network(), attack, precision)
            contestants[title, "ours", f"ours {precision}"] = ours
        for name in bench.settings.peers:
            if (theirs := PEERS[name](bench.network(), attack)) is not None:
                contestants[title, "peer", name] = theirs
        for name, run in bare.items():
            contestants[title, "bound", name] = lambda x, y, run=run, n=attack.steps: run(n)
    seconds, found = take_turns(bench, contestants, "attacks")
    rows = []
    for key in contestants:
        title, role, name = key
        line = row(seconds[key], bench.settings.batch_size, work=title, role=role, name=name)
        if role != "bound":
            textbook = found[title, "textbook", "textbook"]
            line |= judge(bench, name, ATTACKS[title], found[key], textbook)
        rows.append(line)
    gflop = bare["convolutions fp32"].forward_gflop
    per_image = {name: 2 * attack.steps * gflop for name, attack in ATTACKS.items()}
    return {"rows": compare(rows), "gflop_per_image": per_image}


def steps(bench: Bench) -> dict:
    """Images/s of one step of adversarial training: textbook, ours, bare convolutions."""
    contestants = {("textbook", "textbook"): textbook_step(bench, bench.network())}
    for precision in DTYPES:
        ours = our_step(bench, bench.network(), precision)
        contestants["ours", f"ours {precision}"] = ours
    bare = bare_convolutions(bench)
    for name, run in bare.items():
        contestants["bound", name] = lambda x, y, run=run: run(PGD7.steps, training_passes=2)
    seconds, losses = take_turns(bench, contestants, "steps")
    rows = []
    for role, name in contestants:
        size = bench.settings.batch_size
        line = row(seconds[role, name], size, work="training step", role=role, name=name)
        if role != "bound":
            line["losses"] = [round(loss.item(), 5) for loss in losses[role, name]]
        rows.append(line)
    gflop = bare["convolutions fp32"].forward_gflop
    return {
        "rows": compare(rows),
        "gflop_per_image": {"training step": (2 * PGD7.steps + 2 * 3) * gflop},
    }


def tricks(bench: Bench) -> dict:
    """Images/s as trick is added to trick, for the attack, the step and a training pass."""
    new = bench.network
    last = new().to(memory_format=LAST)
    folded = fold_batch_norm(new()).to(memory_format=LAST)
    contestants: dict[tuple[str, str, str], Work] = {}

    def enter(work: str, name: str, run: Work, role: str = "trick") -> None:
        contestants[work, role, name] = run

    enter("PGD-7", "loss.backward()", textbook_attack(new(), PGD7, weight_gradients=True))
    enter("PGD-7", "input gradient alone", textbook_attack(new(), PGD7), "textbook")
    enter("PGD-7", "channels last", textbook_attack(last, PGD7))
    enter("PGD-7", "batch norm folded", textbook_attack(folded, PGD7))
    enter("PGD-7", "ReLU and shortcut fused", our_attack(new(), PGD7, "fp32"))
    enter("PGD-7", "bf16", our_attack(new(), PGD7, "bf16"))
    enter("PGD-7", "instead: autocast, not folded", textbook_attack(last, PGD7, autocast=True))
    enter("training step", "textbook", textbook_step(bench, new()), "textbook")
    enter("training step", "channels last", textbook_step(bench, new().to(memory_format=LAST)))
    enter("training step", "attack folded and fused", our_step(bench, new(), "fp32"))
    enter("training step", "bf16", our_step(bench, new(), "bf16"))
    pools = {
        "in a process of its own": processes(bench.settings, 1, keep_memory=False),
        "freed memory kept there": processes(bench.settings, 1),
    }
    step = "training step"
    for name, pool in pools.items():
        enter(step, name, lambda x, y, pool=pool: run_side_by_side(pool, 1, step, 0))
    autocast = textbook_step(bench, new().to(memory_format=LAST), autocast=True)
    enter("training step", "instead: autocast, not folded", autocast)
    if bench.settings.compile:
        compiled = training_pass(new(), compiled=True)
        started = time.perf_counter()
        compiled(*bench.batch(0))
        warm_up = round(time.perf_counter() - started, 1)
        plain = training_pass(new(), compiled=False)
        enter("training pass", "channels last, bf16 autocast", plain, "textbook")
        enter("training pass", "torch.compile", compiled)
    with ExitStack() as open_pools:
        for pool in pools.values():
            open_pools.enter_context(pool)
        seconds, _ = take_turns(bench, contestants, "tricks")
    rows = []
    for key in contestants:
        work, role, name = key
        rows.append(row(seconds[key], bench.settings.batch_size, work=work, role=role, name=name))
        if name == "torch.compile":
            rows[-1]["warm_up_seconds"] = warm_up
    return {"rows": compare(rows)}


def take_turns(bench: Bench, contestants: dict[tuple, Work], title: str) -> tuple[dict, dict]:
    """Seconds and results of contestants that all meet the same batch in a round."""
    turned = {
        key: lambda number, work=work: work(*bench.batch(number))
        for key, work in contestants.items()
    }
    return turns(turned, bench.settings.rounds, bench.device, title)
