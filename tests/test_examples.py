import os
import re
import subprocess
import sys

from robust_transfer import paths


def run(name: str, *arguments: str) -> str:
    """Run an example as its reader does, in a process of its own."""
    command = [sys.executable, str(paths.ROOT / "examples" / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "src/lib")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_data_network_and_attack(tmp_path):
    shown = run("bring_your_own.py", str(tmp_path))
    columns = re.findall(r"^(\w+): \d+% of 80 images$", shown, re.M)
    assert columns == ["natural", "wb_pgd", "wb_momentum_pgd"]
    assert len(list(tmp_path.glob("results/*/record.json"))) == 2


def test_published_network_loads_with_the_accuracy_that_its_card_states():
    shown = run("load_network.py")
    natural, robust = map(int, re.findall(r"(\d+)%", shown))
    assert natural > 90 > robust > 20


def test_page_shows_the_example_that_runs():
    page = (paths.BOOK / "extend.md").read_text()
    example = (paths.ROOT / "examples/bring_your_own.py").read_text()
    for marker in re.findall(r':(?:start|end)-at: "?(.*?)"?\n', page):
        assert example.count(marker) >= 1, marker
