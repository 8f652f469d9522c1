#!/usr/bin/env python3
"""Who may know whom: crates as docs/architecture.md says, modules without circles.

The table under "Crates, and who may know whom" in docs/architecture.md is the rule, so it cannot go stale: every crate
has a row, and knows exactly those crates that its row names. No crate depends on the harness but for tests, and no two have
a test program of one name.

In each crate, modules that stand side by side must not form a circle: then each can be read, tested and moved without
the other. What is inside a module counts as that module where it is compared with its siblings; tests do not count. The
imports that still close a circle are listed in circles.toml beside this file, each with its reason. An import that is
not listed fails, and so does a listed one that is gone or closes no circle any more.

Run by `make lint`. Python's standard library only.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAP = "docs/architecture.md"
HEADING = "## Crates, and who may know whom"
CIRCLES = "infra/lint/circles.toml"
HARNESS = "services/harness"


def main() -> int:
    packages = workspace()
    faults = crates_out_of_order(packages, rules((ROOT / MAP).read_text(encoding="utf-8")))
    faults += named_alike(packages)
    listed = tomllib.loads((ROOT / CIRCLES).read_text(encoding="utf-8")).get("import", [])
    for folder in sorted(packages):
        crate = Crate(ROOT / folder / "src")
        mine = {(entry["from"], entry["to"]) for entry in listed if entry["crate"] == folder}
        faults += circles(folder, crate.imports(), mine)
    faults += [f"{CIRCLES}: there is no crate {entry['crate']}" for entry in listed if entry["crate"] not in packages]
    faults += [f"{CIRCLES}: {entry['from']} to {entry['to']} has no reason" for entry in listed if not entry.get("reason")]
    for fault in faults:
        print(f"structure: {fault}", file=sys.stderr)
    return 1 if faults else 0


# Crates


def workspace() -> dict[str, dict]:
    """The packages by their folder: which folders each depends on, apart from tests and for tests."""
    command = ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]
    found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    packages = json.loads(found.stdout)["packages"]
    folder_of = {package["name"]: folder(package["manifest_path"]) for package in packages}
    answer = {}
    for package in packages:
        known: dict[str, set[str]] = {"always": set(), "tests": set()}
        for dependency in package["dependencies"]:
            if dependency["name"] in folder_of and dependency["path"]:
                kind = "tests" if dependency["kind"] == "dev" else "always"
                known[kind].add(folder_of[dependency["name"]])
        answer[folder_of[package["name"]]] = known
        known["programs"] = {target["name"] for target in package["targets"] if "test" in target["kind"]}
    return answer


def folder(manifest: str) -> str:
    return pathlib.Path(manifest).parent.relative_to(ROOT).as_posix()


def rules(page: str) -> dict[str, set[str]]:
    """The table as crate -> crates it knows, both as their folders. `services/` is left out of the second column."""
    _, _, section = page.partition(HEADING)
    table = re.search(r"\n\|(?:.*\n\|)*.*", section)
    answer = {}
    for row in table.group().strip().splitlines()[2:] if table else []:
        crates, known = (cell.strip() for cell in row.strip().strip("|").split("|")[:2])
        names = set() if known == "nobody" else {full(name) for name in known.replace("`", "").split(", ")}
        for crate in re.findall(r"`([^`]+)`", crates):
            answer[crate] = names
    return answer


def full(name: str) -> str:
    return name if name.split("/")[0] in ("proto", "gateway", "migrations", "benches") else f"services/{name}"


def crates_out_of_order(packages: dict[str, dict], allowed: dict[str, set[str]]) -> list[str]:
    faults = [f"{MAP}: no row for the crate {crate}" for crate in sorted(packages.keys() - allowed.keys())]
    faults += [f"{MAP}: there is no crate {crate}" for crate in sorted(allowed.keys() - packages.keys())]
    for crate in sorted(packages.keys() & allowed.keys()):
        always = packages[crate]["always"]
        for other in sorted(always - allowed[crate]):
            faults.append(f"{crate} depends on {other}, which the table in {MAP} does not allow")
        for other in sorted(allowed[crate] - always):
            faults.append(f"{MAP}: {crate} does not depend on {other}; take it out of its row")
        if HARNESS in always and not crate.startswith("benches/"):
            faults.append(f"{crate} depends on {HARNESS}, which is for tests and benches")
    return faults


def named_alike(packages: dict[str, dict]) -> list[str]:
    """Cargo chooses test programs by name, so one that is called as another's would be built with it."""
    owners: dict[str, list[str]] = {}
    for crate in sorted(packages):
        for program in packages[crate]["programs"]:
            owners.setdefault(program, []).append(crate)
    return [f"{' and '.join(crates)} both call a test program {name}" for name, crates in sorted(owners.items()) if len(crates) > 1]


# Modules


class Module:
    """A module: its own text, its children, and what names in it stand for."""

    def __init__(self, path: tuple[str, ...], text: str) -> None:
        self.path = path
        self.text = text
        self.children: dict[str, Module] = {}
        self.names: dict[str, list[str]] = {}
        self.globs: list[list[str]] = []


class Crate:
    """The modules of a crate, read from its sources. Modules for tests are left out."""

    def __init__(self, source: pathlib.Path) -> None:
        self.modules: dict[tuple[str, ...], Module] = {}
        for root in ("lib.rs", "main.rs"):
            if (source / root).exists():
                self._read((), source / root, source)
        for module in self.modules.values():
            for path, name in uses(module.text):
                if name == "*":
                    module.globs.append(path)
                elif name and path:
                    module.names[name] = path

    def _read(self, path: tuple[str, ...], file: pathlib.Path, below: pathlib.Path) -> None:
        text = without_tests(without_comments(file.read_text(encoding="utf-8")))
        if path in self.modules:
            self.modules[path].text += text
        else:
            self.modules[path] = Module(path, text)
        for name in re.findall(r"\bmod\s+(\w+)\s*;", text):
            for candidate in (below / f"{name}.rs", below / name / "mod.rs"):
                if candidate.exists():
                    self._read((*path, name), candidate, below / name)
                    self.modules[path].children[name] = self.modules[(*path, name)]

    def imports(self) -> dict[tuple[tuple[str, ...], str, str], set[str]]:
        """(parent, child, sibling) -> which modules below the child name something below the sibling."""
        answer: dict[tuple[tuple[str, ...], str, str], set[str]] = {}
        for module in self.modules.values():
            for written in references(module.text):
                target = self._resolve(module, written, 0)
                if target is None or target == module.path:
                    continue
                level = common(module.path, target)
                # What a module and its own children are to each other is their affair.
                if level < min(len(module.path), len(target)):
                    key = (module.path[:level], module.path[level], target[level])
                    answer.setdefault(key, set()).add("::".join(module.path))
        return answer

    def _resolve(self, module: Module, written: list[str], depth: int) -> tuple[str, ...] | None:
        """The module that owns what a path names, through re-exports; None where it is not of this crate."""
        rest = list(written)
        if rest[0] == "crate":
            at, rest = self.modules[()], rest[1:]
        elif rest[0] in ("self", "super"):
            path = module.path
            while rest and rest[0] in ("self", "super"):
                path = path[:-1] if rest.pop(0) == "super" else path
            at = self.modules.get(path)
        elif rest[0] in module.children:
            at = module
        else:
            return None
        while at and rest:
            name = rest[0]
            if name in at.children:
                at, rest = at.children[name], rest[1:]
            elif name in at.names and depth < 8 and at.names[name] != written:
                found = self._resolve(at, at.names[name] + rest[1:], depth + 1)
                return found if found is not None else at.path
            else:
                for glob in at.globs if depth < 8 else []:
                    found = self._resolve(at, glob, depth + 1)
                    if found and defines(self.modules[found].text, name):
                        return found
                break
        return at.path if at else None


def common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return shared


def without_comments(text: str) -> str:
    """Without comments and without what stands in strings, so that neither is taken for code."""
    pattern = r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\''
    return re.sub(pattern, lambda found: '""' if found.group()[0] in "r\"'" else " ", text, flags=re.DOTALL)


def without_tests(text: str) -> str:
    """Without items under #[cfg(test)]: a module with its braces, or one statement."""
    while found := re.search(r"#\[cfg\((?:test|all\(test\b[^)]*\))\)\]", text):
        at, open_braces = found.end(), 0
        while at < len(text):
            letter = text[at]
            at += 1
            if letter == "{":
                open_braces += 1
            elif letter == "}":
                open_braces -= 1
                if open_braces == 0:
                    break
            elif letter == ";" and open_braces == 0:
                break
        text = text[: found.start()] + text[at:]
    return text


def uses(text: str) -> list[tuple[list[str], str]]:
    """(path, the name it gets here) of every `use`. The name is "*" for a glob and "" for `as _`."""
    answer = []
    for tree in re.findall(r"\buse\s+([^;]+);", text):
        answer += spread([], tree)
    return answer


def spread(before: list[str], tree: str) -> list[tuple[list[str], str]]:
    tree = tree.strip()
    if tree.startswith("{"):
        return [found for part in parts(tree[1 : tree.rindex("}")]) for found in spread(before, part)]
    head, found, rest = tree.partition("::")
    if found and re.fullmatch(r"\w*", head.strip()):
        return spread([*before, head.strip()] if head.strip() else before, rest)
    name, _, alias = (word.strip() for word in tree.partition(" as "))
    if name == "*":
        return [(before, "*")]
    path = before if name == "self" else [*before, name]
    return [(path, "" if alias == "_" else alias or path[-1])] if path else []


def parts(text: str) -> list[str]:
    """Splits at the commas that stand in no braces."""
    answer, begun, open_braces = [], 0, 0
    for at, letter in enumerate(text):
        open_braces += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and open_braces == 0:
            answer.append(text[begun:at])
            begun = at + 1
    return [part for part in [*answer, text[begun:]] if part.strip()]


def references(text: str) -> list[list[str]]:
    """Every path that may lead to another module of the crate: those of `use`, and those written where they are used."""
    found = [path for path, _ in uses(text) if path]
    rest = re.sub(r"\buse\s+[^;]+;", "", text)
    found += [path.split("::") for path in re.findall(r"(?<![\w:])\w+(?:::\w+)+", rest)]
    return found


def defines(text: str, name: str) -> bool:
    return re.search(rf"\b(?:fn|struct|enum|trait|type|const|static|union|macro_rules!)\s+{name}\b", text) is not None


def circles(crate: str, imports: dict, listed: set[tuple[str, str]]) -> list[str]:
    """What is wrong with the modules of a crate: circles that are not listed, and listed imports that close none."""
    faults = []
    closing = set()
    for parent in sorted({parent for parent, _, _ in imports}):
        def named(child: str) -> str:
            return "::".join((*parent, child))

        edges = {(one, other) for above, one, other in imports if above == parent}
        kept = {edge for edge in edges if (named(edge[0]), named(edge[1])) not in listed}
        for edge in edges - kept:
            if reaches(kept, edge[1], edge[0]):
                closing.add((named(edge[0]), named(edge[1])))
        for knot in knots(kept):
            said = [
                f"{named(one)} imports {named(other)} (in {', '.join(sorted(imports[(parent, one, other)]))})"
                for one, other in sorted(kept)
                if one in knot and other in knot
            ]
            faults.append(f"{crate}: a circle of modules: " + "; ".join(said))
    for one, other in sorted(listed - closing):
        faults.append(f"{CIRCLES}: {crate}: the import of {other} by {one} closes no circle; take it out of the list")
    return faults


def reaches(edges: set[tuple[str, str]], start: str, end: str) -> bool:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        if here == end:
            return True
        for one, other in edges:
            if one == here and other not in seen:
                seen.add(other)
                todo.append(other)
    return False


def knots(edges: set[tuple[str, str]]) -> list[set[str]]:
    """Groups of modules each of which reaches all the others."""
    answer: list[set[str]] = []
    for name in sorted({name for edge in edges for name in edge}):
        if any(name in knot for knot in answer):
            continue
        others = {end for _, end in edges if end != name and reaches(edges, name, end) and reaches(edges, end, name)}
        if others:
            answer.append({name, *others})
    return answer


if __name__ == "__main__":
    sys.exit(main())
