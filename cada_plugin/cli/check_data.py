"""Check a copy of a data set before training on it.

cada check-data cuhk data/CUHK-PEDES
cada check-data custom my_data --ann-file people.csv --no-decode

Prints the counts beside the published ones, then every problem and what to do about it.
Exit status: 0 clean (notes are allowed), 1 problems, 2 nothing usable was found.
"""

import argparse
import sys

from cada_plugin.cli.running import run_command
from cada_plugin.tables import text_table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada check-data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="short name of the data set, such as cuhk or custom; a wrong one lists all")
    parser.add_argument("root", help="folder that holds the annotation file and the images")
    parser.add_argument("--ann-file", help="annotation file, if it has an unusual name (absolute or below ROOT)")
    parser.add_argument("--no-decode", action="store_true", help="only look whether images exist, do not decode them")
    return run_command(_run, parser.parse_args(argv))


def format_counts(report) -> str:
    """Counts per split as a table, beside the published counts if there are any."""
    header = ["split", "ids", "images", "captions"]
    if report.published:
        header += ["published: ids", "images", "captions"]
    rows = []
    for split in [*report.counts, *(name for name in report.published if name not in report.counts)]:
        row = [*report.counts.get(split, (0, 0, 0))]
        if report.published:
            row += report.published.get(split, (None, None, None))
        rows.append([split, *("-" if count is None else f"{count:,}" for count in row)])
    return text_table(header, rows)


def _run(args: argparse.Namespace) -> int:
    from cada_plugin.datasets.checks import check_dataset  # after the arguments: torch takes seconds to import
    from cada_plugin.errors import CADAError

    try:
        report = check_dataset(args.dataset, args.root, ann_file=args.ann_file, decode=not args.no_decode)
    except CADAError as error:
        print(f"UNUSABLE: {error}", file=sys.stderr)
        return 2
    print(report.annotation)
    print(format_counts(report))
    for title, is_note in (("Problems", False), ("Notes", True)):
        found = [problem for problem in report.problems if problem.is_note == is_note]
        if found:
            print(f"\n{title} ({len(found)}):")
            for problem in found:
                print(f"- [{problem.kind}] {problem.message}")
    print("\nclean" if report.is_clean else "\nnot clean: see the problems above")
    return 0 if report.is_clean else 1
