"""Outputs and references that the metrics of texts are held to, and a small WordNet."""

CASES = [
    ("i like my dog .", ["i like my dog ."]),
    ("i like my dog a lot .", ["i like my hound a lot ."]),
    ("", ["an empty output counts ."]),
    ("   ", ["so does a blank one ."]),
    ("hello there , how are you ?", ["hi , how are you ?", "hello there , how do you do ?"]),
    ("I ski. Do you?", ["I ski. You do?"]),
    ("i have 2 cats and 3.5 dogs", ["i have 2 cats and 3.5 hounds", "i have cats", "none"]),
    ("my car is big .", ["my auto is vast ."]),
    ("i run soon", ["i sprint anon"]),
    ("what's up?", ["what is up?"]),
    ("don't you know!", ["do you not know!", "don't you know?"]),
    ("well... i think so", ["well, i think so..."]),
    ("it costs $1,000.50 (a lot)", ["it cost $1,000.50 - a lot"]),
    ("THE DOG BARKS", ["the dog barks"]),
    ("dogs running and jumped", ["a dog runs and jumps"]),
    ("a", ["a"]),
    ("nothing in common here", ["totally different words"]),
    ("yes yes yes yes yes", ["yes", "yes yes"]),
    ("i work at a bank , and you ?", ["you work at a bank , and i ?"]),
    ("first line\nsecond line", ["first line second line"]),
    ('he said "hello" & left', ["he said hello and left"]),
    ("the car , the dog , the auto", ["the auto , the hound , the car", "the car"]),
    ("café in münchen ?", ["cafe in munich ?"]),
    ("i am 25 years old .", ["i am twenty five .", "i am 25 .", "25 years old"]),
]
OUTPUTS = [output for output, _ in CASES]
REFERENCES = [references for _, references in CASES]


def write_wordnet(directory, synsets):
    """WordNet's files (wndb(5WN), senseidx(5WN)) of one-sense words, and what nltk opens more."""
    directory.mkdir(parents=True)
    senses = []
    for part, letter, number in (("noun", "n", 1), ("verb", "v", 2), ("adj", "a", 3)):
        _write_part(directory, part, letter, number, synsets.get(part, []), senses)
    _write_part(directory, "adv", "r", 4, synsets.get("adv", []), senses)
    (directory / "index.sense").write_text("".join(sorted(senses)))
    (directory / "lexnames").write_text("00\town.all\t1\n")
    (directory / "cntlist.rev").write_text("")


def _write_part(directory, part, letter, number, synsets, senses):
    data, index = "  1 The licence stands here.  \n", []
    for words in synsets:
        offset = len(data)
        named = " ".join(f"{word} 0" for word in words)
        data += f"{offset:08d} 00 {letter} {len(words):02x} {named} 000 | made up  \n"
        index += [f"{word} {letter} 1 0 1 0 {offset:08d}  \n" for word in words]
        senses += [f"{word}%{number}:00:00:: {offset:08d} 1 0\n" for word in words]
    (directory / f"data.{part}").write_text(data)
    (directory / f"index.{part}").write_text("  1 The licence stands here.  \n" + "".join(index))
    (directory / f"{part}.exc").write_text("")


SYNSETS = {
    "noun": [["car", "auto"], ["dog", "hound"]],
    "verb": [["run", "sprint"]],
    "adj": [["big", "vast"]],
    "adv": [["soon", "anon"]],
}
