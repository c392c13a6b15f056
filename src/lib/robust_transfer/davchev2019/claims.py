"""The claims of paper A as rules; their words, and the tests that the rules code: claims.csv."""

from collections.abc import Iterable
from itertools import pairwise, product

from robust_transfer.claims import outcome, rules, verdicts
from robust_transfer.claims.outcome import combine
from robust_transfer.claims.quantities import Accuracy, Best, Pair, Retained
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.claims.rules import (
    AtMost,
    Check,
    Claim,
    Difference,
    Equivalence,
    Fact,
    Former,
    NotBelow,
)
from robust_transfer.davchev2019 import checks, experiment
from robust_transfer.davchev2019.comparison import at_budget
from robust_transfer.davchev2019.experiment import SOURCES, Profile
from robust_transfer.evaluation.accuracies import COLUMNS, STRONG
from robust_transfer.networks.transfer import STRATEGIES

WB, BB = ("wb_fgsm", "wb_pgd"), ("bb_fgsm", "bb_pgd")
ATTACKS = ("fgsm", "pgd")
GRID = experiment.rows(experiment.grid(Profile()))
ALL = tuple(network.id for network in GRID)
HEADS = tuple(network.id for network in GRID if network.strategy == "head")
TO_NATURAL = tuple(n.id for n in GRID if n.role == "transfer" and n.target == "nat")


def t_diff(first: str, second: str, columns: Iterable[str], *size: float) -> list[Difference]:
    """T-diff in several columns."""
    return [Difference(first, second, column, *size) for column in columns]


def t_equiv(first: str, second: str, margin: float) -> tuple[Equivalence, ...]:
    """T-equiv in both black-box columns."""
    return tuple(Equivalence(first, second, column, margin) for column in BB)


def not_below(first: str, second: str, margin: float) -> tuple[NotBelow, ...]:
    """One side of T-equiv in both black-box columns."""
    return tuple(NotBelow(first, second, column, margin) for column in BB)


def order(words: str, pairs: Iterable[Pair], points: float | None = None) -> rules.Order:
    """T-order; of a single pair, without words, T-cat between two accuracies."""
    return rules.Order(tuple(pairs), words, points)


def ordered(words: str, pairs: Iterable[Pair], lacking: str = "") -> Claim:
    """A claim that is one T-order."""
    return Claim(order(words, pairs), lacking=lacking)


def within(networks: Iterable[str], columns: Iterable[tuple[str, str]]) -> list[Pair]:
    """Pairs of columns, of every network."""
    return [(Accuracy(n, a), Accuracy(n, b)) for n, (a, b) in product(networks, columns)]


def below(first: str, others: Iterable[str], column: str) -> list[Pair]:
    """A network beside each of those that should be below it."""
    return [(Accuracy(first, column), Accuracy(other, column)) for other in others]


def leaks(network: str) -> tuple[rules.Rule, ...]:
    """Signs of label leaking: FGSM images easier than they should be, PGD ones not."""
    natural, black_box = within([network], [("wb_fgsm", "natural"), ("wb_fgsm", "bb_fgsm")])
    return order("", [natural], -2), AtMost(network, "wb_pgd", 5), order("", [black_box])


def notation(reproduction: Reproduction) -> Fact:
    """D40: which network leaks labels; where neither does, nothing says what their names mean."""
    leaking, basis = {}, []
    for network in ("fgsm_no_ll", "fgsm"):
        findings = [rule.finding(reproduction) for rule in leaks(network)]
        leaking[network] = combine(f.outcome for f in findings) == outcome.REPLICATES
        basis += [part for finding in findings for part in finding.basis]
    names = [reproduction.labels[name] for name, found in leaking.items() if found]
    text = f"leaking: {', '.join(names) or 'neither'}"
    holds = leaking["fgsm_no_ll"] and not leaking["fgsm"] if names else None
    return Fact(holds, text, basis=tuple(dict.fromkeys(basis)))


def retained(source: str, strategy: str, column: str) -> Retained:
    """What a naturally re-trained transfer keeps of its source's un-transferred defence."""
    return Retained(f"{source}-nat-{strategy}", source, column)


def pgd_against_fgsm(columns: tuple[str, ...]) -> tuple[Pair, ...]:
    """Shares kept of PGD training, each beside that of FGSM training."""
    pairs = product(columns, STRATEGIES)
    return tuple((retained("pgd", s, column), retained("fgsm", s, column)) for column, s in pairs)


def without_and_with_transfer(family: str, baselines: tuple[str, ...]) -> tuple[Pair, ...]:
    """Per column, the best network of a family (the paper's Figure 5) without and with transfer."""
    transfers = tuple(n.id for n in GRID if n.strategy and family in (n.source, n.target))
    names = f"{family} without transfer", f"{family} with transfer"
    return tuple((Best(names[0], baselines, c), Best(names[1], transfers, c)) for c in COLUMNS)


RESTARTS = "the test is of the paper's attack; what stronger ones leave is in Evaluation"
DEFENDED = "R<sub>fgsm</sub> and R<sub>pgd</sub>"
RETRAINED = "the naturally re-trained networks"
MANY = "the best of many networks is above the best of few by chance alone"

INITIALISATION = {
    "D11": Claim(Difference("pgd-pgd-all", "pgd", "wb_pgd"), lacking=RESTARTS),
    "D12": Claim(lacking="needs scratch and transfer each trained by both recipes"),
    "D13": Claim(*t_diff("pgd-pgd-all", "nat-pgd-all", ("wb_pgd", "wb_fgsm"))),
    "D14": Claim(
        Difference("nat-pgd-all", "pgd", "wb_pgd"),
        lacking="asks for the original recipes and for equal ones; a profile has one at most",
    ),
    "D15": Claim(*t_equiv("pgd-pgd-all", "pgd", 3), *t_equiv("nat-pgd-all", "pgd", 3)),
    "D21": Claim(
        Difference("nat", "pgd-pgd-all", "natural"),
        Former(Difference("pgd", "pgd-pgd-all", "natural")),
    ),
    "D36": Claim(lacking="needs several networks trained from at least five seeds each"),
    "D38": Claim(
        Check(
            "the headline's difference has one sign, however epochs are chosen", checks.selection
        ),
        lacking="on validation images and in training's attack: records keep one epoch's weights",
    ),
}

PGD_SOURCES = [Difference(f"pgd-nat-{s}", f"fgsm-nat-{s}", c) for s in STRATEGIES for c in BB]

NATURAL_TARGETS = {
    "D05": Claim(
        order(
            "PGD sources above FGSM sources: three strategies, two black-box columns",
            (rule.pair for rule in PGD_SOURCES),
        ),
        *PGD_SOURCES,
    ),
    "D06": Claim(
        rules.Alike(
            pgd_against_fgsm(WB),
            "shares kept of PGD and of FGSM training within ±10: white box, three strategies",
            10,
        )
    ),
    "D07": Claim(
        *not_below("pgd-nat-stage3", "pgd", 3),
        rules.Control(not_below("fgsm-nat-stage3", "fgsm", 3)),
        *map(Former, t_equiv("pgd-nat-stage3", "pgd", 3)),
    ),
    "D10": ordered(
        "best un-transferred defence above best naturally re-trained: four attacked columns",
        ((Best(DEFENDED, ATTACKS, c), Best(RETRAINED, TO_NATURAL, c)) for c in BB + WB),
        lacking=MANY,
    ),
    "D23": ordered(
        "18 above 1 and above 56: three sources, two black-box columns",
        (
            (Accuracy(f"{source}-nat-stage3", c), Accuracy(f"{source}-nat-{other}", c))
            for source, c, other in product(SOURCES, BB, ("head", "all"))
        ),
    ),
    "D24": Claim(
        rules.SignTest(
            pgd_against_fgsm(BB + WB),
            "PGD sources keep larger shares than FGSM sources: four columns, three strategies",
        ),
        lacking="comparisons share networks, which makes the sign test too sure",
    ),
}

FGSM = {
    "D01": Claim(*t_equiv("fgsm", "pgd", 2)),
    "D02": Claim(Difference("pgd", "fgsm", "wb_pgd"), Difference("fgsm", "pgd", "wb_fgsm")),
    "D03": Claim(*leaks("fgsm_no_ll"), lacking="no test of the angle between gradients"),
    "D04": Claim(Difference("fgsm", "fgsm_no_ll", "wb_pgd"), lacking=RESTARTS),
    "D20": Claim(
        *t_diff("fgsm", "fgsm-fgsm-all", BB, 15), Difference("fgsm", "fgsm-fgsm-all", "wb_pgd")
    ),
    "D25": Claim(
        order(
            "FGSM family: best without transfer above best with it, five columns",
            without_and_with_transfer("fgsm", ("fgsm", "fgsm_no_ll")),
        ),
        order(
            "PGD family: best with transfer above best without it, five columns",
            (pair[::-1] for pair in without_and_with_transfer("pgd", ("pgd",))),
        ),
        lacking=MANY,
    ),
    "D40": Claim(
        Check(
            "R<sub>fgsm_no_ll</sub> shows the signs of leaking labels, R<sub>fgsm</sub> does not",
            notation,
        ),
        *map(Former, (*leaks("fgsm_no_ll"), rules.Control(leaks("fgsm")))),
    ),
}

STRATEGY = {
    "D08": Claim(
        order(
            "every network with only a new head at least 10 points below R<sub>nat</sub>",
            below("nat", HEADS, "natural"),
            10,
        ),
        order(
            "natural accuracy under a new head: natural above FGSM above PGD source",
            pairwise(Accuracy(f"{source}-nat-head", "natural") for source in SOURCES),
        ),
    ),
    "D09": Claim(*(AtMost(n, "wb_pgd", 2) for n in ("pgd-nat-all", "fgsm-nat-all"))),
    "D16": Claim(
        AtMost("nat-pgd-stage3", STRONG, 5),
        order("", below("nat-nat-stage3", ["nat-pgd-stage3"], "natural"), 20),
        Former(AtMost("nat-pgd-stage3", "wb_pgd", 5)),
    ),
    "D17": Claim(lacking="needs R_nat->pgd 18 trained with four treatments of batch norm"),
    "D18": Claim(
        NotBelow("pgd-pgd-stage3", "pgd-pgd-all", "wb_pgd", 3),
        Difference("pgd-pgd-stage3", "pgd", "wb_pgd"),
        Former(Difference("pgd-pgd-all", "pgd-pgd-stage3", "wb_pgd")),
    ),
    "D19": Claim(
        Check("18 saves at least 30 % of the operations of 56", checks.saving),
        lacking="no wall-clock: networks were trained side by side",
    ),
    "D32": Claim(Equivalence("nat-nat-all", "nat", "natural", 1)),
    "D33": Claim(Difference("pgd-pgd-head", "pgd-nat-head", "wb_pgd")),
    "D34": Claim(Equivalence("pgd-nat-stage3", "pgd-nat-head", "wb_pgd", 3)),
}

ITERATED = order("white-box PGD at least as strong as FGSM: all networks", within(ALL, [WB]), 0)

SANITY = {
    "D22": ordered(
        "share kept in black box above white box: two sources, three strategies, two attacks",
        (
            (retained(source, s, f"bb_{attack}"), retained(source, s, f"wb_{attack}"))
            for source, s, attack in product(ATTACKS, STRATEGIES, ATTACKS)
        ),
    ),
    "D26": Claim(
        *(AtMost(network, "wb_pgd", 1) for network in ("nat", "nat-nat-all")),
        *(order("", [pair]) for pair in within(("nat", "nat-nat-all"), [BB])),
    ),
    "D27": Claim(
        order(
            "white box at least as strong as black box: all networks, two attacks",
            within(ALL, zip(BB, WB, strict=True)),
            0,
        ),
        ITERATED,
        Check("no other sign of masked gradients: rows that show one", checks.unmasked),
    ),
    "D28": Claim(
        ITERATED,
        order(
            "PGD at least as strong as FGSM: all networks, a quarter to twice the budget",
            within(ALL, [(at_budget("fgsm", s), at_budget("pgd", s)) for s in experiment.BUDGETS]),
            0,
        ),
        lacking="longer attacks begin with the shorter ones in the records, so they cannot lose",
    ),
    "D35": Claim(
        *(checks.rank_correlation(column) for column in COLUMNS),
        Check("at least 80 % of cells within their tolerance", checks.cells_within),
        lacking="tolerances are meant for the paper's own scale",
    ),
}

CODE = {
    "D29": Claim(Check("0.0625 on [−1, 1], kept by FGSM and PGD", checks.budget)),
    "D31": Claim(Check("trained weights of 1, 18 and 56", checks.weight_counts)),
    "D39": Claim(
        Check("PGD at the current iterate, the printed formula equal to FGSM", checks.gradient)
    ),
}

PROTOCOL = {
    "D30": Claim(lacking="needs 10 restarts; what four attacks in turn leave is in Evaluation"),
    "D37": Claim(lacking="needs both networks trained with 100 and with 128 images, joint too"),
}

GROUPS = {
    "Headline and initialisation": INITIALISATION,
    "Black-box transfer": NATURAL_TARGETS,
    "FGSM training and leaking": FGSM,
    "Strategies": STRATEGY,
    "Sanity": SANITY,
    "Protocol": PROTOCOL,
    verdicts.CODE: CODE,
}
"""All claims of paper A, by what they are about."""
