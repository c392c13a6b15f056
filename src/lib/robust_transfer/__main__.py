"""Command line: run the pipeline, build the published book, publish records, or verify a cell."""

import os
import sys

from robust_transfer.config import Parser, say
from robust_transfer.workers import prepare_kernels


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code.

    It is 2 with one line for an option that is refused, and 1 with one for what failed.
    """
    os.environ["PYTHONUTF8"] = "1"  # for the notebooks' kernels and jupyter-book
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # what a terminal cannot show ends no run
    try:
        options = _parser().parse_args(arguments)
    except ValueError as error:
        return say(error, 2)
    if options.command == "run" and options.published:  # nothing is trained before
        prepare_kernels()  # imports the library while this process does
    from robust_transfer.book import commands  # seconds, which a refused option need not wait for

    return commands.do(options)


def _parser() -> Parser:
    parser = Parser(prog="robust_transfer", description=__doc__)
    parser.add_argument("command", choices=("run", "publish", "verify"))
    parser.add_argument(
        "--profile", help="name or file; else smoke, or the published book's with --published"
    )
    parser.add_argument("--published", action="store_true", help="start from book/results")
    parser.add_argument("--cell", default="", help="to verify: 'pgd-pgd-all wb_pgd', say")
    parser.add_argument("--data-dir", default="", help="folder of the images")
    parser.add_argument("--results-dir", default="results", help="folder of the records")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, help="networks side by side")
    return parser


if __name__ == "__main__":
    sys.exit(main())
