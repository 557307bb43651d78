"""The plan of the house, and the test that fails when a file breaks it.

check_layers.py [SRC]   a room looks up, walks past a door, hides a heavy header, or a file is too long
check_layers.py --cmake print the rooms and what each stands on, for CMakeLists.txt
"""
import pathlib
import re
import sys

ROOMS = {  # room: what it stands on (closed under "and what those stand on")
    "base": [], "tensor": ["base"], "kernels": ["tensor"], "io": ["tensor"], "text": ["io"], "nn": ["kernels"],
    "moe": ["nn"], "model": ["moe", "io"], "train": ["model", "text"], "compress": ["model", "text"],
    "runtime": ["model", "text"], "eval": ["model", "text"], "report": ["io"],
    "cli": ["train", "compress", "runtime", "eval", "report"],
}
BLIND = {"cli": set(ROOMS) - {"tensor", "kernels"}}  # these see the named rooms alone
ONE_FILE = {"CLI/CLI.hpp": "cli/arguments.cc", "pcre2.h": "text/regex.cc",
            "utf8proc.h": "text/normalizer.cc"}
NOT_IN_HEADERS = {"nlohmann/json.hpp", "iostream", "regex", "fmt/format.h"}
NOWHERE = {"regex"}
MOST_LINES = 600
MOST_INCLUDES = 10  # of a source file, its own header and tests aside


def below(room):
    seen, todo = set(), list(ROOMS[room])
    while todo:
        r = todo.pop()
        if r not in seen:
            seen.add(r)
            todo += ROOMS[r]
    return BLIND.get(room, seen) | {room}


def doors(src, room):
    """Lines of the room's README that start with "door: "."""
    readme = src / room / "README.md"
    text = readme.read_text() if readme.exists() else ""
    return {f"{room}/{d.strip()}" for d in re.findall(r"^door: (.+)$", text, re.M)}


def faults_of(src, path, open_doors):
    name = path.relative_to(src).as_posix()
    room, text = name.split("/")[0], path.read_text(errors="replace")
    if room not in ROOMS:
        yield f"{name}: {room} is not a room of the plan"
        return
    if text.count("\n") > MOST_LINES:
        yield f"{name}: {text.count(chr(10))} lines, at most {MOST_LINES}"
    own = name.removesuffix(path.suffix) + ".h"
    found = list(re.finditer(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', text, re.M))
    ours = [m for m in found if m[1].split("/")[0] in ROOMS and m[1] != own]
    if path.suffix == ".cc" and not name.endswith("_test.cc") and len(ours) > MOST_INCLUDES:
        yield f"{name}: includes {len(ours)} headers of the house, at most {MOST_INCLUDES}"
    for m in found:
        inc, line = m[1], text[:m.start()].count("\n") + 1
        to = inc.split("/")[0]
        if to in ROOMS and to not in below(room):
            yield f"{name}:{line}: {room} may not include {inc}"
        elif to in ROOMS and to != room and inc not in open_doors[to]:
            yield f"{name}:{line}: {inc} is not a door of {to}"
        if inc.startswith("../"):
            yield f"{name}:{line}: {inc} is not written from src/"
        if inc in ONE_FILE and name != ONE_FILE[inc]:
            yield f"{name}:{line}: {inc} belongs to {ONE_FILE[inc]} alone"
        if inc in NOWHERE or (inc in NOT_IN_HEADERS and path.suffix == ".h"):
            yield f"{name}:{line}: {inc} in the wrong place"


def check(src):
    open_doors = {r: doors(src, r) for r in ROOMS}
    files = sorted(p for p in src.rglob("*") if p.suffix in {".h", ".cc", ".cu"})
    faults = [f for p in files for f in faults_of(src, p, open_doors)]
    faults += [f"{d}: a door that does not exist" for r in ROOMS for d in sorted(open_doors[r])
               if not (src / d).exists()]
    print("\n".join(faults) or f"layers: clean ({len(files)} files)")
    return bool(faults) or not files


if __name__ == "__main__":
    if "--cmake" in sys.argv:
        print(";".join("=".join([r, ",".join(on)]) for r, on in ROOMS.items()), end="")
        sys.exit(0)
    sys.exit(check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "src")))
