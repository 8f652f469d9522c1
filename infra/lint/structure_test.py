"""What structure.py sees, and what it lets pass. Run by `make lint`."""

import pathlib
import tempfile
import unittest

from structure import Crate, circles, crates_out_of_order, named_alike, rules


class Modules(unittest.TestCase):
    def crate(self, **files: str) -> dict:
        """The imports of a crate whose modules have these texts; `a__b` is the module a::b."""
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            for name, text in files.items():
                path = source / ("/".join(name.split("__")) + ".rs")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return Crate(source).imports()

    def faults(self, listed: set[tuple[str, str]] = frozenset(), **files: str) -> list[str]:
        return circles("crate", self.crate(**files), set(listed))

    def test_a_circle_of_siblings_is_found_however_it_is_written(self):
        for back in ("use crate::a::Thing;", "use super::a::{self, Thing};", "fn f() { crate::a::g() }", "use crate::{a as other};"):
            faults = self.faults(lib="mod a; mod b;", a="use crate::b::Other;", b=back)
            self.assertEqual(len(faults), 1, back)
            self.assertIn("a imports b (in a); b imports a (in b)", faults[0])

    def test_one_way_is_no_circle_and_neither_are_parent_and_child(self):
        self.assertEqual(self.faults(lib="mod a; mod b;", a="use crate::b::Other;", b=""), [])
        self.assertEqual(self.faults(lib="mod a; pub struct Top;", a="use crate::Top; mod c;", a__c="use super::Thing; use crate::a;"), [])

    def test_what_is_inside_a_module_counts_as_that_module(self):
        faults = self.faults(lib="mod a; mod b;", a="mod deep;", a__deep="use crate::b::Other;", b="use crate::a::deep::Thing;")
        self.assertIn("a imports b (in a::deep)", faults[0])

    def test_a_circle_inside_a_module_is_found_and_said_with_its_path(self):
        faults = self.faults(lib="mod a;", a="mod c; mod d;", a__c="use super::d::X;", a__d="use crate::a::c::Y;")
        self.assertIn("a::c imports a::d", faults[0])

    def test_a_name_that_the_root_passes_on_counts_as_its_owner(self):
        for passed_on in ("pub use a::Thing;", "pub use a::*;"):
            faults = self.faults(lib=f"mod a; mod b; {passed_on}", a="use crate::b::Other; pub struct Thing;", b="use crate::Thing;")
            self.assertEqual(len(faults), 1, passed_on)

    def test_tests_comments_and_strings_do_not_count(self):
        for back in (
            "#[cfg(test)]\nmod tests { use crate::a::Thing; }",
            "// use crate::a::Thing;",
            'const WORDS: &str = "crate::a::Thing";',
        ):
            self.assertEqual(self.faults(lib="mod a; mod b;", a="use crate::b::Other;", b=back), [], back)

    def test_a_listed_import_passes_and_one_that_closes_no_circle_does_not(self):
        texts = {"lib": "mod a; mod b;", "a": "use crate::b::Other;", "b": "use crate::a::Thing;"}
        self.assertEqual(self.faults({("b", "a")}, **texts), [])
        self.assertIn("closes no circle", self.faults({("b", "a"), ("a", "c")}, **texts)[0])
        self.assertIn("closes no circle", self.faults({("b", "a")}, **{**texts, "b": ""})[0])


class Crates(unittest.TestCase):
    PAGE = """# Map

## Crates, and who may know whom

| crate | knows | what |
|---|---|---|
| `services/domain` | nobody | ids |
| `services/upload`, `services/metadata` | domain, proto | handlers |

## Next
"""

    def test_every_crate_knows_exactly_those_of_its_row(self):
        allowed = rules(self.PAGE)
        right = {"always": {"services/domain", "proto"}, "tests": {"services/harness"}}
        crates = {"services/domain": {"always": set(), "tests": set()}, "services/upload": right, "services/metadata": right}
        self.assertEqual(crates_out_of_order(crates, allowed), [])
        crates["services/domain"] = {"always": {"proto"}, "tests": set()}
        crates["services/upload"] = {"always": {"services/domain"}, "tests": set()}
        crates["services/other"] = {"always": set(), "tests": set()}
        faults = "\n".join(crates_out_of_order(crates, allowed))
        self.assertIn("no row for the crate services/other", faults)
        self.assertIn("services/domain depends on proto", faults)
        self.assertIn("services/upload does not depend on proto", faults)

    def test_two_test_programs_of_one_name_are_found(self):
        self.assertEqual(named_alike({"a": {"programs": {"mesh"}}, "b": {"programs": {"node"}}}), [])
        self.assertEqual(len(named_alike({"a": {"programs": {"mesh"}}, "b": {"programs": {"mesh"}}})), 1)


if __name__ == "__main__":
    unittest.main()
