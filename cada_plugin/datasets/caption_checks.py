"""Finds captions that make poor queries: shared by several people, with non-English letters, with code, or too long."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from cada_plugin.datasets.problems import Problem

CAPTION_WORD_LIMIT = 72  # BLIP and CADA read the first 72 words of a caption
# Matches code (calls, assignments, tags, braces), but not ordinary brackets as in "bag (black)".
_CODE = re.compile(
    r"[{}\\]|==|!=|</?[a-z]\w*[^<>]*>|\b\w+\s*=\s*[\w\"'\[]|\b\w+\.\w+\(|\b[a-z]\w*\(\s*(?:[\"'\d][^)]*)?\)"
    r"|\b(?:print|elif|return)\(|\b(?:def|class)\s+\w+\s*[(:]|\bself\.\w|^\s*import\s+\w+\s*(?:$|;|as\b)"
)


def check_captions(records: Sequence[dict]) -> list[Problem]:
    """Problems of captions that are not fair queries: shared by several people, non-English letters, or code."""
    owners: dict[str, set[int]] = defaultdict(set)
    uses: Counter[str] = Counter()
    foreign, code = [], []
    for record in records:
        for caption in record["captions"]:
            text = " ".join(caption.lower().split())
            owners[text].add(record["person_id"])
            uses[text] += 1
            if not caption.isascii():
                foreign.append(caption)
            if _CODE.search(caption):
                code.append(caption)
    problems = []
    shared = [text for text, ids in owners.items() if len(ids) > 1]
    if shared:
        total = sum(uses[text] for text in shared)
        message = (
            f"{total:,} captions are reused across ids ({len(shared):,} different texts, for example "
            f"{_short(shared[0])} for ids {few(sorted(owners[shared[0]]))}): such a query has only one of its people "
            "counted as right: write captions that tell the people apart"
        )
        problems.append(Problem("reused_captions", message, total))
    if foreign:
        letters = " ".join(sorted({letter for caption in foreign for letter in caption if not letter.isascii()})[:10])
        message = (
            f"{len(foreign):,} captions have non-ASCII characters ({letters}; for example {_short(foreign[0])}): the "
            "English tokenizer splits or drops them: replace them by their ASCII counterparts, or translate"
        )
        problems.append(Problem("non_ascii", message, len(foreign)))
    if code:
        message = (
            f"{len(code):,} captions contain fragments of code (for example {_short(code[0])}): they were pasted by "
            "accident and describe nobody: rewrite or remove them"
        )
        problems.append(Problem("code", message, len(code)))
    return problems


def check_lengths(records: Sequence[dict], limit: int = CAPTION_WORD_LIMIT) -> list[Problem]:
    """A note, not a problem, if captions have more than ``limit`` words."""
    lengths = [len(caption.split()) for record in records for caption in record["captions"]]
    long = [length for length in lengths if length > limit]
    if not long:
        return []
    message = (
        f"{len(long):,} captions are longer than {limit} words (up to {max(long)}): what follows is cut off unless the "
        "limits of words and tokens are raised in the config"
    )
    return [Problem("long_captions", message, len(long), is_note=True)]


def few(values: Sequence) -> str:
    return ", ".join(map(str, values[:3])) + (", ..." if len(values) > 3 else "")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
