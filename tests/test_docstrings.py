"""A docstring that lists arguments lists each, once, and no other. Ruff's D417 cannot read ``low, high:``.

That of a function opens with a verb, that of a property says what the value is, as for an attribute.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lightning_compress

ROOT = Path(lightning_compress.__file__).parent
NAMED = re.compile(r"^((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*):(?: |$)")


def documented(docstring: str, section: str) -> list[str]:
    """Names under a heading of a docstring in Google's style."""
    lines = iter(docstring.splitlines())
    found = []
    for line in lines:
        if line.strip() == f"{section}:":
            break
    else:
        return []
    depth = None
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if depth is None:
            depth = indent
        if indent < depth:
            break
        if indent == depth and (match := NAMED.match(line.strip())):
            found += [name.lstrip("*") for name in match[1].split(", ")]
    return found


def functions(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
            if "__init__" in methods and (docstring := ast.get_docstring(node)):
                yield f"{node.name} (line {node.lineno})", docstring, methods["__init__"]
        if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            yield f"{node.name} (line {node.lineno})", docstring, node


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_each_argument_is_documented_once_and_exists(file):
    wrong = []
    for name, docstring, function in functions(ast.parse(file.read_text())):
        given = function.args
        listed = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
        known = [a.arg for a in listed if a]
        said = documented(docstring, "Args")
        wrong += [f"{name}: {each!r} is documented twice" for each in {e for e in said if said.count(e) > 1}]
        wrong += [f"{name}: {each!r} is no argument" for each in said if each not in known]
        missing = set(known) - {*said, "self", "cls"} if said and function.name != "__init__" else ()
        wrong += [f"{name}: {each!r} is not documented" for each in sorted(missing) if not each.startswith("_")]
        if (places := [known.index(each) for each in said if each in known]) != sorted(places):
            wrong.append(f"{name}: the order is not that of the signature")
    assert not wrong


def opening_words(tree: ast.Module):
    """Yield, for each function, whether it is a property, the first word of its docstring, and its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            made = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            yield bool(made & {"property", "cached_property"}), docstring.split()[0].strip(",:."), node.name


def test_functions_open_with_a_verb_and_properties_with_what_they_are():
    words: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for file in sorted(ROOT.rglob("*.py")):
        for is_property, word, name in opening_words(ast.parse(file.read_text())):
            words[is_property].setdefault(word, []).append(f"{file.relative_to(ROOT)}: {name}")
    nouns = {"A", "Args", "An", "The", "Whether", "Number", *words[True]}
    assert {"The", "Whether"} <= set(words[True])
    assert "Return" in words[False]
    assert not {word: sorted(words[False][word] + words[True].get(word, [])) for word in nouns & set(words[False])}
