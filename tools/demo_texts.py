"""The texts of the demonstration: prose, code and word problems that this project owns.

Each kind is cut into pieces; some calibrate, the others measure, and no piece does both.
"""
import random
import re

PIECE = 900  # characters of a piece of prose or code, at least
CALIBRATE = 48_000  # characters of a part, at most
MEASURE = 16_000

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Kate", "Leo", "Mia"]
THINGS = ["apples", "books", "marbles", "stamps", "pencils", "cards", "shells", "coins", "stickers", "cookies"]

# A question, its numbers, and its steps: (result, expression, sentence). The last step's result is the answer.
TEMPLATES = [
    ("{p} has {a} {t}. {q} gives {p} {b} more. How many {t} does {p} have now?", {"a": (3, 40), "b": (2, 30)},
     [("x", "a + b", "{p} now has {x:} {t}.")]),
    ("{p} had {a} {t} and {q} had {b}. Together they gave away {c} of them. How many {t} are left?",
     {"a": (15, 40), "b": (10, 30), "c": (3, 20)},
     [("x", "a + b", "Together they had {x:} {t}."), ("y", "x - c", "After giving some away, {y:} {t} are left.")]),
    ("A box holds {a} {t}. {p} buys {b} boxes and already has {c} {t}. How many {t} does {p} have in total?",
     {"a": (4, 12), "b": (2, 9), "c": (2, 20)},
     [("x", "b * a", "The boxes hold {x:} {t}."), ("y", "x + c", "In total {p} has {y:} {t}.")]),
    ("{p} works {a} hours a day for {b} days and earns ${c} an hour. How many dollars does {p} earn?",
     {"a": (3, 9), "b": (2, 6), "c": (8, 20)},
     [("x", "a * b", "{p} works {x:} hours."), ("y", "x * c", "So {p} earns {y:} dollars.")]),
    ("{p} buys {a} {t} for ${b} each and pays with a ${d} bill. How many dollars does {p} get back?",
     {"a": (2, 9), "b": (2, 9), "d": (100, 100)},
     [("x", "a * b", "The {t} cost {x:} dollars."), ("y", "d - x", "{p} gets {y:} dollars back.")]),
    ("{q} is {a} years old. {p} is {b} years older than {q}. How old are they together?", {"a": (5, 40), "b": (2, 20)},
     [("x", "a + b", "{p} is {x:} years old."), ("y", "x + a", "Together they are {y:} years old.")]),
    ("{p} reads {a} pages every day. A book has {b} times as many pages as {p} reads in a day. {q} has already read "
     "{c} pages of it. How many pages does {q} still have to read?", {"a": (10, 30), "b": (4, 12), "c": (5, 35)},
     [("x", "a * b", "The book has {x:} pages."), ("y", "x - c", "{q} still has to read {y:} pages.")]),
    ("{p} and {q} pick {t}. {p} picks {a} and {q} picks {b} times as many. How many {t} do they pick together?",
     {"a": (3, 25), "b": (2, 6)},
     [("x", "a * b", "{q} picks {x:} {t}."), ("y", "a + x", "Together they pick {y:} {t}.")]),
    ("{p} packs {a} bags with {b} {t} each. Half of the bags are sold at once. How many {t} are in the bags that are "
     "left?", {"a": (2, 20, 2), "b": (3, 12)},
     [("x", "a // 2", "There are {x:} bags left."), ("y", "x * b", "They hold {y:} {t}.")]),
    ("A train travels {a} miles an hour for {b} hours, then {c} miles an hour for {d} hours. How far does it travel?",
     {"a": (20, 60, 5), "b": (2, 5), "c": (20, 60, 5), "d": (2, 5)},
     [("x", "a * b", "First it travels {x:} miles."), ("y", "c * d", "Then it travels {y:} miles."),
      ("z", "x + y", "Altogether it travels {z:} miles.")]),
    ("{p} saves ${a} a week. {q} saves ${b} more each week than {p}. How many dollars do both save in {c} weeks?",
     {"a": (3, 20), "b": (1, 9), "c": (2, 10)},
     [("x", "a + b", "{q} saves {x:} dollars a week."), ("y", "a + x", "Together they save {y:} dollars a week."),
      ("z", "y * c", "In all these weeks they save {z:} dollars.")]),
    ("{p} bakes {a} trays of {b} cookies. The family eats {c} of them on Monday and {d} on Tuesday. How many cookies "
     "are left?", {"a": (3, 6), "b": (10, 16), "c": (2, 12), "d": (2, 12)},
     [("x", "a * b", "{p} bakes {x:} cookies."), ("y", "c + d", "The family eats {y:} cookies."),
      ("z", "x - y", "So {z:} cookies are left.")]),
]


def word_problem(rng):
    question, ranges, steps = rng.choice(TEMPLATES)
    values = {name: rng.randrange(r[0], r[1] + 1, *r[2:]) for name, r in ranges.items()}
    words = dict(zip("pq", rng.sample(NAMES, 2)), t=rng.choice(THINGS))
    lines = []
    for result, expression, sentence in steps:
        values[result] = eval(expression, {}, values)
        written = re.sub(r"[a-z]", lambda m: str(values[m[0]]), expression).replace("//", "/")
        lines.append(sentence.replace(f"{{{result}:}}", f"{written} = {values[result]}").format(**words))
    return f"Question: {question.format(**words, **values)}\nAnswer: " + "\n".join(
        [*lines, f"#### {values[steps[-1][0]]}"]) + "\n"


def word_problems(seed, characters):
    """Different ones, until they have so many characters."""
    rng = random.Random(seed)
    found = {}  # a dict keeps their order
    while sum(map(len, found)) < characters:
        found[word_problem(rng)] = True
    return list(found)


def pieces(text, separator="\n\n"):
    """A text in pieces of whole paragraphs."""
    part = ""
    for paragraph in text.strip().split(separator):
        part += paragraph + separator
        if len(part) >= PIECE:
            yield part
            part = ""
    if part.strip():
        yield part


def comments(path):
    """What a header promises, without the comment signs."""
    blocks = re.findall(r"(?:^[ \t]*//.*\n)+", path.read_text(encoding="utf-8"), re.M)
    return "\n\n".join(re.sub(r"^[ \t]*// ?", "", block, flags=re.M).strip() for block in blocks)


def prose(root):
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("src/*/README.md")]
    texts = [path.read_text(encoding="utf-8") for path in sorted(pages)]
    texts += [comments(path) for path in sorted(root.glob("src/**/*.h"))]
    return [piece for piece in pieces("\n\n".join(texts))]


def code(root):
    sources = [path for path in sorted(root.glob("src/**/*.cc"))]
    return [piece for path in sources for piece in pieces(path.read_text(encoding="utf-8"))]


def split(found, seed):
    """(calibrating text, measuring text) out of pieces, in an order that mixes early and late ones."""
    order = list(dict.fromkeys(found))
    random.Random(seed).shuffle(order)
    parts = {True: [], False: []}
    limits = {True: MEASURE, False: CALIBRATE}
    for i, piece in enumerate(order):
        measures = i % 3 == 0
        if sum(map(len, parts[measures])) + len(piece) <= limits[measures]:
            parts[measures].append(piece)
    return parts[False], parts[True]


def all_texts(root, seed=1):
    """{kind: (calibrating pieces, measuring pieces)}"""
    kinds = {"prose": prose(root), "code": code(root), "problems": word_problems(seed, 2 * (CALIBRATE + MEASURE))}
    return {kind: split(found, seed) for kind, found in kinds.items()}
