"""Finds and ranks passages; runs as a cell inside the REPL and, imported, over the text of a plain prompt.

Standard library only and free of this package's imports, because its source is what the engine writes as code.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, allow-any-generics
# Written without annotations because a reader of the trajectory sees it as code in a REPL.

# --- cell ---
import itertools
import json
import math
import re


def explore(plan, context, grep, search):
    """Return (the patterns of terms found nowhere, the ranked passages) for a plan of terms, shapes and signs."""

    def read(source):
        if isinstance(context, str):
            return context
        if isinstance(context, list | tuple):
            return context[int(source)]
        return context[source]

    terms, missing, places = find_places(plan, plan["reach"] // max(1, getattr(context, "chars", 1)), grep, search)
    signs = [(re.compile(pattern), weight) for pattern, weight in plan["signs"]]
    found: dict = {}
    for (source, start, stop), base in places.items():
        text = read(source)
        for low, high in touching_ranges(text, start, stop):
            head = table_header(text, low)
            if head == text[low:high].strip():
                continue  # the names of columns are told with each row
            near = head or text[max(0, low - 250) : high + 250]
            score = base + weigh_patterns(terms, text[low:high], near) + weigh_patterns(signs, text[low:high], near)
            if score > found.get((source, low), (0.0,))[0]:
                found[source, low] = (score, high, base)
    passages: list = []
    alike: dict = {}
    for (source, low), (score, high, base) in sorted(found.items(), key=lambda item: (-item[1][0], str(item[0]))):
        piece = read(source)[low:high]
        alike[piece] = alike.get(piece, 0) + 1
        if alike[piece] > 2 or len(passages) >= 200:
            continue
        passages.append(describe_passage(terms, read(source), source, (low, high), score, plan["after"]))
        passages[-1]["strong"] = base >= 2
    passages.sort(key=lambda passage: (-passage["score"], str(passage.get("source")), passage["start"]))
    for place, passage in enumerate(passages):
        if place >= (8 if passage.pop("strong") else 3):
            passage.pop("after")
    return missing, passages[: plan["keep"]]


def find_places(plan, most, grep, search):
    """Return (the terms weighed by rarity, the patterns found nowhere, the places to read with their weights).

    If time allows only ``most`` patterns, the first terms are used, as plain words if they are few.
    """
    places: dict = {}
    rarest: list = []
    few: dict = {}
    terms, missing = [], []
    for place, (pattern, weight, strong, plain) in enumerate(plan["terms"]):
        if place >= max(4, most):
            terms.append((re.compile(pattern, re.I), weight))
            continue
        hits = grep(plain, max_matches=1000, ignore_case=True)
        if len(hits) < 1000:
            few[plain] = hits
            hits = [hit for hit in hits if re.search(pattern, hit["text"], re.I)]
        elif most >= 4:
            hits = grep(pattern, max_matches=1000, ignore_case=True)
        terms.append((re.compile(pattern, re.I), weight / (1 + math.log10(max(1, len(hits))))))
        if not hits:
            missing.append(pattern)
        rarest = hits if hits and len(hits) <= (len(rarest) or 1000) else rarest
        for hit in hits if strong or len(hits) < 60 else ():
            places.setdefault((hit.get("source"), hit["end"] - 1, hit["end"]), 0.0)
    for pattern, weight, plain in plan["shapes"][: max(0, most - len(terms))]:
        shape = re.compile(pattern, re.M | (re.I if plan["fold"] else 0))
        if plain in few:
            hits = [hit for hit in few[plain] if shape.search(hit["text"])]
        else:
            hits = grep(pattern, max_matches=1000, ignore_case=plan["fold"])
        for hit in hits:
            key = (hit.get("source"), hit["end"] - 1, hit["end"])
            places[key] = max(places.get(key, 0.0), weight)
    if most >= 4:
        best = search(plan["query"], k=30)
    else:
        best = [] if places else rarest
    for rank, hit in enumerate(best):
        places.setdefault((hit.get("source"), hit["start"], hit["end"]), 1.8 / (2 + rank))
    return terms, missing, places


def touching_ranges(text, start, stop):
    """Yield the ranges of the lines, in prose of the sentences, that touch text[start:stop]."""
    at = text.rfind("\n", 0, start) + 1
    while at < stop:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        row = table_header(text, at)
        if end - at < 400 and not row:
            low, high = paragraph_range(text, at, end)
        else:
            low, high = at, end
        cuts = [low, high]
        if not row and (high - low > 240 or (low, high) != (at, end)):
            low = max(low, start - 4000)
            inner = re.finditer(r"(?:(?<=[.!?])[*_)\"]*|\s·)\s+(?=[^a-z\s])", text[low : min(high, stop + 4000)])
            cuts = [low, *(low + cut.end() for cut in inner), high]
        for low, high in itertools.pairwise(cuts):
            piece = text[low:high]
            if high > start and low < stop and len(re.findall(r"\w", piece[:500])) > 2:
                first = low + len(piece) - len(piece.lstrip())
                # A window of a very long line stays around the place that was found.
                most = 1900 if row else 500
                if high - first > most:
                    first = max(first, min(start - 200, high - most))
                yield first, min(first + len(text[first:high].rstrip()), first + most)
        at = max(end, cuts[-1]) + 1


def paragraph_range(text, start, end):
    """Return the range of the wrapped prose that a line belongs to, or of the line itself."""

    def prose(line):
        # A line that opens with a number is an entry of a log or list, not wrapped prose.
        code = re.search(r"[=(){};<>|]|^\s*(?:[-*+>#:@.]|\[?\d{2}|\d+[.)])|:$|^\s*$", line)
        return not code and len(line.split()) > 4

    first = last = text[start:end]
    for _ in range(12):
        before = text[text.rfind("\n", 0, max(0, start - 1)) + 1 : max(0, start - 1)]
        if start < 2 or len(first) > 200 or not 30 < len(before) < 200 or not prose(before) or not prose(first):
            break
        first, start = before, start - 1 - len(before)
    for _ in range(12):
        after = text[end + 1 : end + 202].partition("\n")[0]
        wrapped = 30 < len(last) < 200 and re.search(r"\w", after) and len(after) < 200
        if (
            not wrapped
            or not prose(last)
            or re.match(r"\s*(?:[-*+>#:@|.]|\d+[.)])", after)
            or re.search(r"[=(){};]", after)
        ):
            break
        last, end = after, end + 1 + len(after)
    return start, end


def weigh_patterns(patterns, piece, near):
    """Weigh the patterns that are in a piece, and by a third the welcome ones that are near it."""
    found = 0.0
    for pattern, weight in patterns:
        if pattern.search(piece):
            found += weight
        elif weight > 0 and pattern.search(near):
            found += 0.35 * weight
    return found


def table_header(text, at):
    """Return the line that names the columns of the table row at a position, or nothing if it is not one."""
    start = text.rfind("\n", 0, at) + 1
    row = text[start : start + 4000].partition("\n")[0]
    between = max(("\t", "|", ";", ","), key=row.count)
    columns = re.sub('"[^"]*"', "", row).count(between)
    code = r"\s|[\"']?$|(?:from|import|def|class|return|if|for)\b|.*[={}\[\]]|.*[,:]$|.*, .*\.$"
    ragged = row.count(between) > 0 and is_table(text, between)
    if not ragged and (columns < (1 if between == "\t" else 2) or (between in ",;" and re.match(code, row))):
        return ""
    breaks = [text.rfind(mark, max(0, start - 200000), start) + len(mark) for mark in ("\n\n", "===\n")]
    first = max((place for place in breaks if place > 3), default=0)
    for line in text[first : first + 8000].split("\n")[:4]:
        names = [name.strip(" \"'*`") for name in line.strip(" |").split(between)]
        named = len(names) > 1 and all(re.fullmatch(r"[\w#%€$][^,;|\t={}\[\]]{0,39}|", name) for name in names)
        same = re.sub('"[^"]*"', "", line).count(between) == columns
        if named and (same or ragged) and not re.match(code, line):
            return line.strip()
    return ""


def is_table(text, between):
    """Return whether a text is a table from its first line on, so that its rows may have any number of cells."""
    lines = [line for line in text[:4000].split("\n")[:20] if line.strip()]
    names = lines[0].split(between) if lines else []
    named = all(re.fullmatch(r"[\"']?[^\W\d_][\w .%€$-]{0,39}[\"']?", name) for name in names)
    if len(set(names)) < 2 or not named:
        return False
    return all(between in line and not re.search(r"[.:{]$", line.strip()) for line in lines)


def describe_passage(terms, text, source, place, score, after):
    """Describe a passage with its place, the definitions or headings around it and the terms that it has."""
    low, high = place
    names = enclosing_names(text, low)
    around = " ".join([*names, str(source or "")])
    head = table_header(text, low)
    if head:
        near = f"{text[low:high]}\n{head}"
    else:
        near = text[max(0, low - 250) : high + 250]
    has = [number for number, (term, _) in enumerate(terms) if term.search(around) or term.search(near)]
    score += sum(
        0.7 * terms[p][1] for p in has if terms[p][0].search(around) and not terms[p][0].search(text, low, high)
    )
    passage = {"score": round(score, 2), "line": text.count("\n", 0, low) + 1, "start": low, "text": text[low:high]}
    passage["has"] = has
    if source is not None:
        passage["source"] = source
    if names:
        passage["in"] = names[:3]
    if head:
        passage["head"] = head
    passage["after"] = text[high : high + after]
    return passage


def enclosing_names(text, start):
    """Return the names of the definitions or headings around a position, the innermost first."""
    line = text.rfind("\n", 0, start) + 1
    indent = len(text[line : line + 200]) - len(text[line : line + 200].lstrip(" "))
    names, level, base = [], 9, max(0, line - 80000)
    shape = r"^(?:([ ]*)(?:async\s+def|def|class)\s+(\w+)|(#{1,6})\s+(.+))"
    for match in reversed(list(re.finditer(shape, text[base:line], re.M))):
        if match[2] and len(match[1]) < indent:
            indent = len(match[1])
            names.append(match[2])
        elif match[3] and len(match[3]) < level:
            level = len(match[3])
            names.append(match[4][:80])
    return names


def show(missing, passages, limit):
    """Print what was found as JSON lines, at most about limit characters."""
    print(json.dumps({"missing": missing, "passages": len(passages)}))
    for passage in passages:
        line = json.dumps(passage, ensure_ascii=False)
        limit -= len(line)
        if limit < 0:
            break
        print(line)


# --- end ---
