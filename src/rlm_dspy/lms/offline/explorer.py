"""Finds and ranks passages; runs as a cell inside the REPL and, imported, over the text of a plain prompt.

Standard library only and free of this package's imports, because its source is what the engine writes as code.
"""

# --- cell ---
import json
import math
import re


def pieces(text, start, stop):
    """Yield the ranges of the lines in text[start:stop], long lines cut into sentences."""
    at = text.rfind("\n", 0, start) + 1
    while at < stop:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        cuts = [at, end]
        if end - at > 240:
            inner = [m.end() for m in re.finditer(r"[.!?;:|]\s+", text[at : at + 8000])]
            cuts = [at, *(at + cut for cut in inner), end]
        for low, high in zip(cuts, cuts[1:], strict=False):
            piece = text[low:high]
            if len(piece.strip()) > 2:
                first = low + len(piece) - len(piece.lstrip())
                yield first, min(low + len(piece.rstrip()), first + 500)
        at = end + 1


def enclosing(text, start):
    """Return the names of the definitions or headings around a position, the innermost first."""
    line = text.rfind("\n", 0, start) + 1
    indent = len(text[line : line + 200]) - len(text[line : line + 200].lstrip(" "))
    names, level, base = [], 9, max(0, line - 80000)
    shape = r"^(?:([ ]*)(?:async\s+def|def|class)\s+(\w+)|(#{1,6})\s+(.+))"
    for found in reversed(list(re.finditer(shape, text[base:line], re.M))):
        if found[2] and len(found[1]) < indent:
            indent = len(found[1])
            names.append(found[2])
        elif found[3] and len(found[3]) < level:
            level = len(found[3])
            names.append(found[4][:80])
    return names


def explore(plan, context, grep, search):
    """Return (the terms never found, the ranked passages) for a plan of terms, shapes and signs."""

    def read(source):
        return context if isinstance(context, str) else context[source]

    places, terms, missing = {}, [], []
    for pattern, weight, strong in plan["terms"]:
        hits = grep(pattern, max_matches=1000, ignore_case=True)
        terms.append((re.compile(pattern, re.I), weight / (1 + math.log10(max(1, len(hits))))))
        if not hits:
            missing.append(pattern)
        if strong or len(hits) < 60:
            for hit in hits:
                places.setdefault((hit.get("source"), hit["start"], hit["start"] + 1), 0.0)
    for pattern, weight in plan["shapes"]:
        for hit in grep(pattern, max_matches=1000, ignore_case=plan["fold"]):
            key = (hit.get("source"), hit["start"], hit["start"] + 1)
            places[key] = max(places.get(key, 0.0), weight)
    for rank, hit in enumerate(search(plan["query"], k=30)):
        places.setdefault((hit.get("source"), hit["start"], hit["end"]), 1.5 / (1 + rank))

    found = {}
    signs = [(re.compile(pattern), weight) for pattern, weight in plan["signs"]]
    for (source, start, stop), base in places.items():
        text = read(source)
        for low, high in pieces(text, start, stop):
            if stop == start + 1 and not low <= start < high:
                continue
            score = base + sum(weight for sign, weight in signs if sign.search(text, low, high))
            near = text[max(0, low - 250) : high + 250]
            for term, weight in terms:
                if term.search(text, low, high):
                    score += weight
                elif term.search(near):
                    score += 0.35 * weight
            if score > found.get((source, low), (0.0,))[0]:
                found[source, low] = (score, high, base)
    best = sorted(found.items(), key=lambda item: (-item[1][0], str(item[0])))[:200]
    ranked = []
    for (source, low), (score, high, base) in best:
        text = read(source)
        names = enclosing(text, low)
        around = " ".join([*names, str(source or "")])
        near = text[max(0, low - 250) : high + 250]
        has = []
        for place, (term, weight) in enumerate(terms):
            if term.search(around) and not term.search(text, low, high):
                score += 0.7 * weight
            if term.search(around) or term.search(near):
                has.append(place)
        ranked.append((score, base, source, low, text[low:high], names, has))
    ranked.sort(key=lambda item: (-item[0], str(item[2]), item[3]))
    passages = []
    for score, base, source, low, quote, names, has in ranked[: plan["keep"]]:
        line = read(source).count("\n", 0, low) + 1
        item = {"score": round(score, 2), "line": line, "start": low, "text": quote, "has": has}
        if source is not None:
            item["source"] = source
        if names:
            item["in"] = names[:3]
        if base >= 5:
            item["after"] = read(source)[low + len(quote) : low + len(quote) + plan["after"]]
        passages.append(item)
    return missing, passages


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
