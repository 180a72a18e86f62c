"""Names of variables that a program declares, found in its tokens or, where Python parses it, in its syntax tree."""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from jaxllm.codejudge.robustness.scan import OPEN, WORD, Code


@dataclass
class Names:
    """Names of a program.

    Attributes:
        declared: variables that the program declares.
        excluded: names that have to stay, since their other uses may mean something else.
        keys: indices of tokens that are keys and not variables.
    """

    declared: set[str] = field(default_factory=set)
    excluded: set[str] = field(default_factory=set)
    keys: set[int] = field(default_factory=set)


# Calls with which a program reaches its variables by names in strings.
_REFLECTION = {"eval", "exec", "locals", "globals", "vars", "dir"}


def _python_names(code: Code, declaration: str) -> Names:
    names = _parsed_names(code, declaration) or _line_names(Code(code.text, "python", newlines=True))
    words = code.words(range(len(code)))
    names.excluded |= set(WORD.findall(code.strings("" if words & _REFLECTION else "f")))
    return names


def _parsed_names(code: Code, declaration: str) -> Names | None:
    """Finds names with the syntax tree of Python; returns None if the program does not parse."""
    text = declaration + code.text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings of the program
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if re.search(r"\r(?!\n)", text):  # ends a line for the parser
        return None
    names, lines = Names(), text.split("\n")
    starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=-len(declaration)))
    keys, parameters = {}, set()
    is_module = any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body)
    public = set() if declaration.strip() else {id(inner) for node in tree.body for inner in [
        node, *(node.body if isinstance(node, ast.ClassDef) else [])]}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                names.declared.add(name)
            case ast.arg(arg=name):
                parameters.add(name)
            case ast.keyword(arg=str(name)):
                column = len(lines[node.lineno - 1].encode()[:node.col_offset].decode())
                keys[starts[node.lineno - 1] + column] = name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) \
                    | ast.MatchMapping(rest=str(name)):
                names.declared.add(name)
            case ast.MatchClass(kwd_attrs=attributes):
                names.excluded.update(attributes)
            case ast.alias(name=name, asname=other):
                names.excluded.update([*name.split("."), *([other] if other else [])])
            case ast.ClassDef(name=name):
                names.excluded |= {name} | _own_names(node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.excluded.add(name)
                if id(node) in public:  # others may call it with these keywords
                    names.excluded |= {inner.arg for inner in ast.walk(node.args) if isinstance(inner, ast.arg)}
    if is_module:  # and not a snippet
        names.excluded |= _own_names(tree)
    names.declared |= parameters
    names.excluded |= parameters & set(keys.values())
    names.keys = {index for index, token in enumerate(code.tokens) if token.start in keys}
    return names


def _own_names(scope: ast.AST) -> set[str]:
    """Returns the names that a class or module itself binds, not its functions."""
    names, nodes = set(), list(ast.iter_child_nodes(scope))
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
    return names


def _line_names(code: Code) -> Names:
    """Finds names from the lines of Python that does not parse: assignments, loops, `with` and `except`."""
    if "class" in code.words(range(len(code))):
        return Names()
    # Back-ticks replace quotes in some generated programs.
    names = Names(excluded=set(WORD.findall(" ".join(re.findall(r"`[^`\n]*`", code.text)))))
    statement, first = "", True
    for index, token in enumerate(code.tokens):
        at_top = code.enclosing[index] is None
        if token.text == "\n":
            first = first or at_top
            continue
        if first:
            statement = token.text
            names.declared |= _assigned(code, index)
        first = at_top and token.text in (";", ":")
        if token.word:
            follower = code[index + 1]
            if code[index - 1] == "def":
                names.excluded |= code.words(range(index, code.pairs.get(index + 1, index) + 1))
            elif statement in ("import", "from") or follower == "=" and not at_top:  # the key of an argument
                names.excluded.add(token.text)
            elif follower == ":=" or code[index - 1] == "as":
                names.declared.add(token.text)
        if token.text == "for":
            end = index + 1
            while code.is_word(end) and code[end] != "in" or code[end] in (",", "(", ")", "*"):
                end += 1
            if code[end] == "in":
                names.declared |= code.words(range(index + 1, end))
    return names


def _assigned(code: Code, start: int) -> set[str]:
    """Returns the names that a statement of Python assigns, also in chains."""
    names: set[str] = set()
    index = start
    while True:
        end = index
        while code.is_word(end) or code[end] in (",", "(", ")", "*", "[", "]"):
            end += 1
        # a[i] = x and f(x) = ... assign no names: a bracket follows a word there
        if code[end] != "=" or any(code.is_word(at) and code[at + 1] in ("(", "[") for at in range(index, end)):
            return names
        names |= code.words(range(index, end))
        index = end + 1


_CPP_PRIMITIVES = set("int long short char bool float double unsigned signed void auto".split())
_CPP_TYPES = _CPP_PRIMITIVES | set(
    "size_t ssize_t ptrdiff_t wchar_t int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t string wstring "
    "string_view vector map set multimap multiset unordered_map unordered_set pair tuple queue deque stack "
    "priority_queue list forward_list array bitset optional variant any function stringstream istringstream "
    "ostringstream".split())
_CPP_QUALIFIERS = set("const constexpr static volatile register mutable inline thread_local".split())
_JAVA_PRIMITIVES = set("int long short char boolean float double byte var".split())
_CLASS_WORDS = {"class", "struct", "union", "enum", "interface", "record"}


def _typed_names(code: Code, declaration: str) -> Names:
    """Finds names of C++ and Java: variables with a type, and parameters of lambdas."""
    cpp = code.language == "cpp"
    declared: set[int] = set()
    qualifiers = _CPP_QUALIFIERS if cpp else {"final", "static", "private", "public", "protected"}
    boundaries = {"", ";", "{", "}", "(", ",", ":"} | (set() if cpp else {"instanceof"})
    for start in range(len(code)):
        if code[start - 1] not in boundaries:
            continue
        index = start
        while code[index] in qualifiers:
            index += 1
        end = _cpp_type_end(code, index) if cpp else _java_type_end(code, index)
        if end is not None:
            declared |= _declarators(code, end, code[start - 1] == "instanceof")
    if not cpp:
        declared |= set(_lambda_parameters(code, "->"))
    names = Names(code.words(sorted(declared)), _class_words(code) | _label_words(code))
    for index in range(len(code)):
        if code[index] == "record" and code[index + 2] == "(":
            names.excluded |= code.words(range(index, code.pairs.get(index + 2, index)))
    if cpp:
        names.excluded |= set(WORD.findall("\n".join(re.findall(r"^[ \t]*#.*", code.text, re.MULTILINE))))
    for index in range(len(code)):
        is_called = code[index + 1] == "("
        if code.is_word(index) and index not in declared \
                and (is_called != code.is_member(index) or code[index + 1] == "::"):
            names.excluded.add(code[index])  # a function, a field or a namespace of the same name
    return names


def _angle_end(code: Code, index: int) -> int | None:
    """Returns the index after the arguments of a generic type that start at `index`."""
    depth = 0
    for at in range(index, len(code)):
        text = code[at]
        depth += (text == "<") - (text == ">")
        if not depth:
            return at + 1
        if not (code.tokens[at].word or text[0].isdigit() or text in "<>,*&?.[]()" or text in ("::", "&&")):
            return None
    return None


def _cpp_type_end(code: Code, index: int) -> int | None:
    """Returns the index after a type of C++, if one that is known starts at `index`."""
    known = False
    while code.is_word(index) and code[index + 1] == "::":
        index, known = index + 2, True
    if not code.is_word(index) or not known and code[index] not in _CPP_TYPES:
        return None
    index += 1
    while code[index] in _CPP_PRIMITIVES or code[index] == "const":
        index += 1
    if code[index] == "<":
        after = _angle_end(code, index)
        if after is None:
            return None
        index = after
    while code[index] == "::" and code.is_word(index + 1):
        index += 2
    while code[index] in ("*", "&", "&&", "const"):
        index += 1
    return index


def _java_type_end(code: Code, index: int) -> int | None:
    """Returns the index after a type of Java, if one starts at `index`: a primitive one or in upper case."""
    if not code.is_word(index) or code[index] not in _JAVA_PRIMITIVES and not code[index][0].isupper():
        return None
    index += 1
    while True:
        if code[index] == "." and code.is_word(index + 1):
            index += 2
        elif code[index] == "<":
            after = _angle_end(code, index)
            if after is None:
                return None
            index = after
        elif code[index] == "[" and code[index + 1] == "]":
            index += 2
        else:
            return index + (code[index] == "...")


def _declarators(code: Code, index: int, is_pattern: bool) -> set[int]:
    """Returns the indices of the names that are declared after a type that ends before `index`."""
    if code[index] == "[" and code[index - 1] in ("auto", "&", "&&"):  # auto [a, b] = ...
        return {at for at in range(index + 1, code.pairs.get(index, index)) if code.is_word(at)}
    follower = code[index + 1]
    if not code.is_word(index) or not (is_pattern or follower in ("=", ";", ",", ":", ")", "[", "(", "{")):
        return set()
    if follower == "(" and (code.language == "java" or _is_function(code, index + 1)):
        return set()
    names, at = {index}, index + 1
    while at < len(code) and code[at] not in (";", ")", "]", "}"):
        if code[at] in OPEN:
            if at not in code.pairs:
                break
            at = code.pairs[at]
        elif code[at] == ",":
            at += 1
            while code[at] in ("*", "&"):
                at += 1
            if not code.is_word(at) or code[at + 1] not in ("=", ",", ";", "[", "(", "{"):
                break
            names.add(at)
        at += 1
    return names


def _is_function(code: Code, bracket: int) -> bool:
    """Returns whether the bracket after a typed name of C++ has parameters, and no arguments of a constructor."""
    close = code.pairs.get(bracket)
    if close is None or close == bracket + 1 or code[close + 1] not in (";", ","):
        return True
    first = bracket + 1 + (code[bracket + 1] == "const")
    end = _cpp_type_end(code, first)
    return end is not None and (end == close or code.is_word(end))


def _lambda_parameters(code: Code, arrow: str) -> Iterator[int]:
    """Yields the indices of parameters without types before the arrows of lambdas."""
    for index in (index for index in range(1, len(code)) if code[index] == arrow):
        if code.is_word(index - 1):
            back = index - 2
            while code[back] not in ("", ";", "{", "}", "(", "case", arrow):
                back -= 1
            if code[back] != "case":  # switch of Java
                yield index - 1
        elif code[index - 1] == ")" and index - 1 in code.pairs:
            yield from _pattern(code, code.pairs[index - 1], index - 1)


def _pattern(code: Code, start: int, end: int) -> Iterator[int]:
    """Yields the indices of the names that a list of parameters, or a pattern of JavaScript, declares."""
    for index in range(start, end):
        if code.is_word(index) and code[index + 1] != ":" and code[index - 1] in ("(", ",", "[", "{", "...", ":"):
            if code[index + 1] in (",", ")", "]", "}", "="):
                yield index


def _class_words(code: Code) -> set[str]:
    """Returns the words directly inside the braces of classes: fields, methods and their types."""
    braces = set()
    for index in (index for index in range(len(code)) if code[index] == "{"):
        back = index - 1
        while back >= 0 and code[back] not in (";", "{", "}", "(", "="):
            braces |= {index} if code[back] in _CLASS_WORDS and code[back - 1] != "." else set()
            back -= 1
    return {token.text for index, token in enumerate(code.tokens) if token.word and code.enclosing[index] in braces}


def _label_words(code: Code) -> set[str]:
    """Returns the words that may be labels: those after break, continue and goto."""
    return code.words([index for index in range(1, len(code)) if code[index - 1] in ("break", "continue", "goto")])


# What precedes the brace of a block of JavaScript; a brace after anything else may be an object or a pattern.
_BLOCK_STARTS = {"", ")", "=>", ";", "{", "}", "else", "try", "finally", "do"}


def _js_names(code: Code, declaration: str) -> Names:
    words = code.words(range(len(code)))
    if words & {"eval", "Function", "with"}:
        return Names()
    names = Names(excluded=_class_words(code) | _label_words(code))
    declared = set(_lambda_parameters(code, "=>"))
    for index in range(len(code)):
        text = code[index]
        bracket = code.enclosing[index]
        if text in ("let", "const", "var") and not code.is_member(index):
            own = _js_declarators(code, index + 1)
            declared |= own
            if code[index - 1] == "export":
                names.excluded |= code.words(sorted(own))
        elif text in ("function", "catch"):
            bracket = index + 1 + (code[index + 1] == "*")
            bracket += code.is_word(bracket)
            declared |= set(_pattern(code, bracket, code.pairs.get(bracket, bracket)))
        elif code.is_word(index) and bracket is not None and code[bracket] == "{" \
                and code[bracket - 1] not in _BLOCK_STARTS:
            before, after = code[index - 1], code[index + 1]
            if before in ("{", ",") and after == ":":
                names.keys.add(index)
            elif before in ("{", ",") and after in ("", ",", "}", "=", "(") \
                    or before in ("get", "set", "async", "*") and after == "(":
                names.excluded.add(text)  # {x} is a key and a variable
    names.declared = code.words(sorted(declared))
    return names


def _js_declarators(code: Code, index: int) -> set[int]:
    """Returns the indices of the names that let, const or var declares."""
    names: set[int] = set()
    while index < len(code):
        if code.is_word(index):
            names.add(index)
        elif code[index] in ("[", "{") and index in code.pairs:
            names |= set(_pattern(code, index, code.pairs[index]))
            index = code.pairs[index]
        else:
            break
        index += 1
        if code[index] == "=":
            while index < len(code) and code[index] not in (",", ";", ")", "]", "}", "let", "const", "var"):
                index = code.pairs.get(index, index) + 1
        if code[index] != ",":
            break
        index += 1
    return names


def _go_names(code: Code, declaration: str) -> Names:
    names = Names(excluded=_class_words(code) | _label_words(code))
    for index in range(len(code)):
        text = code[index]
        if text == ":=":
            names.declared |= code.words(_listed(code, index - 1, -1))
        elif text in ("var", "const"):
            names.declared |= code.words(_listed(code, index + 1, 1))
        elif text == "func":
            names.declared |= _go_parameters(code, index + 1)
        elif code.is_word(index):
            is_key = code[index + 1] == ":" and code[index - 1] in ("{", ",")
            is_field = code.is_member(index) and code[index + 1] != "("
            if is_key or is_field or text[0].isupper() or code[index - 1] == "type":
                names.excluded.add(text)  # upper case: an exported name
    return names


def _listed(code: Code, index: int, step: int) -> Iterator[int]:
    """Yields the indices of words with commas between them, from `index` on in the direction of `step`."""
    while code.is_word(index):
        yield index
        index += 2 * step if code[index + step] == "," else len(code) * step


def _go_parameters(code: Code, index: int) -> set[str]:
    """Returns the parameters of the function of Go with the name or bracket at `index`; none if they have no names."""
    bracket = index + code.is_word(index)
    if code[bracket] != "(" or bracket not in code.pairs:
        return set()
    entries: list[list[int]] = [[]]
    at = bracket + 1
    while at < code.pairs[bracket]:
        if code[at] == ",":
            entries.append([])
        else:
            entries[-1].append(at)
        at = code.pairs.get(at, at) + 1 if code[at] in OPEN else at + 1
    named = any(len(entry) > 1 and code.is_word(entry[0]) and code[entry[0]] not in RESERVED["go"]
                and (code.is_word(entry[1]) or code[entry[1]] in ("[", "*", "...", "<")) for entry in entries)
    return code.words([entry[0] for entry in entries if entry]) if named else set()


_COMMON_WORDS = set("break case catch class const continue default delete do else enum false finally for if new null "
                    "private protected public return static switch this throw true try void while".split())
RESERVED = {
    "python": {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls"},
    "cpp": _CPP_TYPES | _CPP_QUALIFIERS | _COMMON_WORDS | set(
        "alignas alignof and asm cin cout cerr co_await co_return co_yield concept const_cast decltype dynamic_cast "
        "endl explicit export extern final friend goto main namespace noexcept not nullptr NULL operator or override "
        "reinterpret_cast requires signed sizeof static_assert static_cast std struct template typedef typeid typename "
        "union using virtual xor".split()),
    "java": _JAVA_PRIMITIVES | _COMMON_WORDS | set(
        "abstract assert extends final goto implements import instanceof interface native package permits record "
        "sealed strictfp super synchronized throws transient volatile yield".split()),
    "js": _COMMON_WORDS | set(
        "arguments async await debugger export exports extends from function get implements import in "
        "instanceof interface let module of package require set super typeof undefined var with yield NaN Infinity "
        "globalThis console process window document Array ArrayBuffer BigInt Boolean Buffer DataView Date Error "
        "EvalError Function Int8Array Int16Array Int32Array Intl JSON Map Math Number Object Promise Proxy RangeError "
        "ReferenceError Reflect RegExp Set String Symbol SyntaxError TypeError URIError Uint8Array Uint16Array "
        "Uint32Array Float32Array Float64Array WeakMap WeakSet decodeURI decodeURIComponent encodeURI "
        "encodeURIComponent escape eval isFinite isNaN parseFloat parseInt unescape setTimeout setInterval "
        "clearTimeout clearInterval structuredClone".split()),
    # With the packages of the standard library that programs name without an import of their own.
    "go": set(
        "break case chan const continue default defer else fallthrough for func go goto if import interface map "
        "package range return select struct switch type var any bool byte comparable complex64 complex128 error "
        "float32 float64 int int8 int16 int32 int64 rune string uint uint8 uint16 uint32 uint64 uintptr true false "
        "iota nil append cap clear close complex copy delete imag len make max min new panic print println real "
        "recover main init bufio big bits bytes cmp errors fmt heap hex io list maps math md5 os rand regexp ring "
        "sha1 sha256 slices sort strconv strings sync time unicode utf8".split()),
}
FINDERS: dict[str, Callable[[Code, str], Names]] = {
    "python": _python_names, "cpp": _typed_names, "java": _typed_names, "js": _js_names, "go": _go_names}
