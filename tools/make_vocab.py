"""Write the small WordPiece vocabulary of the procedural configs: words of the caption generator and of the lexicon,
and single characters.

python tools/make_vocab.py cada_plugin/text/procedural_vocab.txt
"""

import argparse
import json
import string
import sys
from importlib import resources
from pathlib import Path

import numpy as np
from transformers.models.bert.tokenization_bert import BertTokenizer

from cada_plugin.datasets.procedural.people import sample_people
from cada_plugin.datasets.procedural.photo import VIEWS
from cada_plugin.datasets.procedural.slices import words_of
from cada_plugin.datasets.procedural.worlds import WORLDS
from cada_plugin.datasets.procedural.writer import describe
from cada_plugin.text import clean_caption

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _captions(rng: np.random.Generator) -> list[str]:
    text = []
    for world in WORLDS.values():
        for number, sampled in enumerate(sample_people(rng, 4000, world, 0.0)):
            view = VIEWS[number % len(VIEWS)]
            text.append(describe(sampled.person, world, rng, view=view, shown=set()).text)
        # Rare words may be missing in the sampled captions.
        text += [word for kind in world.speech.words.values() for word in kind]
    return [clean_caption(caption) for caption in text] + [word for caption in text for word in words_of(caption)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    text = _captions(np.random.default_rng(0))
    lexicon = json.loads(resources.files("cada_plugin.text").joinpath("lexicon.json").read_text(encoding="utf-8"))
    text += [word for words in lexicon.values() for word in words]
    split = BertTokenizer(vocab={token: i for i, token in enumerate(SPECIAL)}).backend_tokenizer.pre_tokenizer
    words = {word for line in text for word, _ in split.pre_tokenize_str(line)}
    characters = string.ascii_lowercase + string.digits
    words |= {*characters, *"-',&/", *(f"##{c}" for c in characters)}
    args.out.write_text("\n".join([*SPECIAL, *sorted(words)]) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
