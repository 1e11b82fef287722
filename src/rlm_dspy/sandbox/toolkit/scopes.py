"""Find the class and function around an offset, and the methods of a class, by indentation."""

import re

CODE = (
    *(".py", ".pyi", ".js", ".jsx", ".mjs", ".ts", ".tsx", ".java", ".kt", ".go", ".rs", ".c", ".h", ".cc", ".cpp"),
    *(".hpp", ".cs", ".php", ".swift", ".scala", ".rb", ".lua"),
)

_CLIMBED = 3_000  # lines examined above an offset
_KEYWORDS = "class|def|function|func|fun|fn|interface|struct|enum|trait|impl|module|object|namespace|record|union|sub"
_MODIFIERS = (
    r"(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|internal|static|final|abstract|async|override"
    r"|virtual|unsafe|inline|extern|const|suspend|open|data|sealed|partial|get|set)\s+)*"
)
_NAMED = rf"{_MODIFIERS}(?P<kind>{_KEYWORDS})\b\s*(?:\([^)]*\)\s*)?(?P<name>[\w.$:]+)"
# A method without a keyword: "void run(int n) {", "constructor(name) {". Unlike a call, its line ends in a brace.
_UNNAMED = rf"{_MODIFIERS}(?:[\w<>\[\],.*&?:]+\s+)*?(?P<method>[\w$~]+)\s*\([^;{{}}]*\)[^;{{}}()=]*\{{$"
_CONTROL = frozenset(
    {"if", "for", "while", "switch", "catch", "else", "do", "try", "with", "return", "foreach", "using", "lock", "when"}
)


def scope_of(body: str, start: int) -> str:
    """Return the definitions around an offset, such as "class Shop > def price", or an empty string."""
    line_start = body.rfind("\n", 0, start) + 1
    line_end = body.find("\n", line_start)
    limit = _indent_width(body[line_start : line_end if line_end >= 0 else len(body)])
    names: list[str] = []
    for _ in range(_CLIMBED):
        if line_start == 0 or limit == 0:
            break
        stop = line_start - 1
        line_start = body.rfind("\n", 0, stop) + 1
        line = body[line_start : min(stop, line_start + 400)]
        indent, text = _indent_width(line), line.strip()
        if not text or indent >= limit or text[0] in ")]}{#":
            continue
        limit = indent
        if title := _definition_title(text):
            names.append(title)
    return " > ".join(reversed(names))


def methods(body: str, start: int, stop: int) -> list[tuple[int, str]]:
    """Return (offset, first line) of the methods of the class in this part of a program."""
    found: list[tuple[int, int, str]] = []
    for match in re.finditer(r"^([ \t]+)(\S.*)$", body[start:stop], re.M):
        if _definition_title(match[2].strip()):
            found.append((start + match.start(), len(match[1].expandtabs(4)), match[2].strip()))
    least = min((indent for _, indent, _ in found), default=0)
    return [(offset, line) for offset, indent, line in found if indent == least]


def has_methods(line: str) -> bool:
    """Return whether the first line of a definition begins a class or similar."""
    named = re.match(_NAMED, line)
    return named is not None and named["kind"] in ("class", "interface", "struct", "trait", "impl", "object", "module")


def definition_names(text: str) -> list[str]:
    """Return the names of the classes and functions that part of a program defines."""
    return [match["name"] for match in re.finditer(rf"^[ \t]*{_NAMED}", text, re.M)]


def _indent_width(line: str) -> int:
    wide = line.expandtabs(4)
    return len(wide) - len(wide.lstrip())


def _definition_title(text: str) -> str:
    """Return "def price" or "price()" for the first line of a definition, else an empty string."""
    if named := re.match(_NAMED, text):
        return f"{named['kind']} {named['name'].rstrip(':')}"
    method = re.match(_UNNAMED, text[:300]) if text.endswith("{") else None
    if method and text.split("(")[0].split()[0] not in _CONTROL:
        return f"{method['method']}()"
    return ""
