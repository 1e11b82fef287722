"""The REPL's half of sub-calls: standard library only, run there as source, in its own namespace.

The caller provides ``repl``, the namespace of the cells; ``taken``, the names there that belong to the user; and
``main``, the name of the main context. The code looks up the classes that a signature names in the REPL, sends their
shape with the call, and converts the result to instances of them. The host's half is :mod:`rlm_dspy.rlm.subcalls`.
"""

import copy as _copy
import inspect as _inspect
import re as _re
import sys as _sys
import types as _types_module

_whole = repl.get(main)  # the main context as handed over


class _Reply(str):
    """A sub-model's reply; one that failed reads "[ERROR] …" and has ``ok`` False and ``error``."""

    ok = True
    error = None
    kind = None

    def __await__(self):
        """Return the reply, which is already there; awaited calls in a sandbox cell start at once and run together."""
        return self
        yield


class _Outputs:
    """The outputs of a typed call, as attributes and as items; ``ok`` is True."""

    ok = True
    error = None

    def __init__(self, values):
        self.__dict__.update(values)

    def __getitem__(self, name):
        return self.__dict__[name]

    def keys(self):
        return self.__dict__.keys()

    def __repr__(self):
        return "Outputs(" + ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items()) + ")"


def _class_shapes(text):
    """Return the shapes of this REPL's classes that ``text`` names, and of the classes they refer to."""
    shapes = {}
    pending = _re.findall(r"[A-Za-z_]\w*", text)
    while pending:
        name = pending.pop()
        kind = repl.get(name)
        if name in shapes or not isinstance(kind, type) or kind.__module__ == "builtins":
            continue
        members = getattr(kind, "__members__", None)
        if members is not None:
            shapes[name] = {"values": [member.value for member in members.values()]}
            continue
        hints = {}
        for base in reversed(kind.__mro__):
            hints.update({k: v for k, v in _inspect.get_annotations(base).items() if k[:1] != "_"})
        if hints:
            fields = {key: _annotation_text(hint) for key, hint in hints.items()}
            optional = [key for key in fields if _is_optional_field(kind, key)]
            shapes[name] = {"fields": fields, "optional": optional, "doc": (kind.__doc__ or "")[:500]}
            pending += _re.findall(r"[A-Za-z_]\w*", " ".join(fields.values()))
    return shapes


def _is_optional_field(kind, key):
    """Return whether a field of a class is optional."""
    models, records = getattr(kind, "model_fields", None), getattr(kind, "__dataclass_fields__", None)
    if models is not None and key in models:
        return not models[key].is_required()
    if records is not None and key in records:
        return records[key].default is not records[key].default_factory  # they are one: MISSING
    for names in ("__optional_keys__", "_field_defaults"):
        if hasattr(kind, names):
            return key in getattr(kind, names)
    return hasattr(kind, key)


def _annotation_text(hint):
    if isinstance(hint, str):
        return hint
    if isinstance(hint, type) and not hasattr(hint, "__args__"):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("__main__.", "").replace("builtins.", "")


def _make_instances(value, shapes):
    """Convert records back into instances of the REPL's own classes."""
    if isinstance(value, (list, tuple)):
        return type(value)(_make_instances(item, shapes) for item in value)
    if isinstance(value, dict):
        return {key: _make_instances(item, shapes) for key, item in value.items()}
    name = getattr(value, "_name", None)
    if name in shapes and name in repl:
        optional = shapes[name].get("optional", ())
        values = {key: item for key, item in value.items() if item is not None or key not in optional}
        return repl[name](**{key: _make_instances(item, shapes) for key, item in values.items()})
    return value


def _outputs_or_error(result, shapes):
    """Return a call's outputs, or the error object that replaces them."""
    if isinstance(result, dict):
        values = result.get("values")
    else:
        values = getattr(result, "values", None)
    if not isinstance(values, dict):
        if isinstance(result, dict):
            return _types_module.SimpleNamespace(**result)
        return result
    return _Outputs({key: _make_instances(item, shapes) for key, item in values.items()})


def _checked_outputs(result):
    if not isinstance(result, _Outputs):
        raise RuntimeError(f"{result.kind}: {result.error}")
    return result


def _reply_texts(results):
    """Return the replies of a batch as texts that carry whether they failed."""
    replies = []
    for result in results:
        if isinstance(result, dict) or hasattr(result, "kind"):
            failure = result
        else:
            failure = None
        if failure is None:
            replies.append(_Reply(result))
            continue
        reply = _Reply(f"[ERROR] {failure['kind']}: {failure['error']}")
        reply.ok, reply.error, reply.kind = False, failure["error"], failure["kind"]
        replies.append(reply)
    return replies


def _plain_value(value):
    """Return a toolkit hit as it is printed, also inside a list: models read that form best."""
    if isinstance(value, (list, tuple)):
        plain = [_plain_value(item) for item in value]
        if type(value) is tuple:
            return tuple(plain)
        return plain
    if isinstance(value, str) and hasattr(type(value), "record"):
        return str(value)
    return value


def llm_query(prompt):
    """Ask the sub-model one prompt, of which it sees nothing else"""
    return _Reply(repl["__rlm_ask__"](prompt=_plain_value(prompt)))


def llm_query_batched(prompts):
    """Ask the sub-model many prompts at once; replies keep the order; a failed one has .ok False and .error"""
    return _reply_texts(repl["__rlm_llm_query__"](prompts=_plain_value(prompts)))


def _input_names(signature):
    """Return the names before the arrow of a signature."""
    side, bare = "", signature.partition("->")[0]
    while side != bare:
        side, bare = bare, _re.sub(r"\[[^\[\]]*\]", "", bare)
    return [part.partition(":")[0].strip() for part in side.split(",")]


def predict(signature, *values, **inputs):
    """Ask the sub-model with typed outputs: predict("doc -> label: Literal['a', 'b']", doc=text).label

    An ``instruction=`` that is not an input of the signature says what to do.
    """
    names = _input_names(signature)
    if len(values) > len(names):
        raise TypeError(f"predict() got {len(values)} values for {len(names)} inputs: {', '.join(names)[:80]}")
    inputs = {**dict(zip(names, values, strict=False)), **inputs}
    if "instruction" not in names:
        instruction = inputs.pop("instruction", None)
    else:
        instruction = None
    return _checked_outputs(predict_batched(signature, [inputs], instruction)[0])


def predict_batched(signature, items, instruction=None):
    """Ask many at once; each item is a dict of inputs; a failed one is an object with .ok False and .error"""
    shapes = _class_shapes(signature)
    sent = []
    for item in items:
        if isinstance(item, (str, int, float)):
            raise TypeError(f"each item is a dict of the inputs of {signature!r}, not a {type(item).__name__}")
        sent.append({name: _plain_value(value) for name, value in dict(item).items()})
    results = repl["__rlm_predict__"](signature=signature, types=shapes, items=sent, instruction=instruction)
    return [_outputs_or_error(result, shapes) for result in results]


def subcall(text, instruction, output=None):
    """Let a child explore ``text`` in a REPL of its own; ``output`` types its answer, e.g. "items: list[str]" """
    return _single_value(_checked_outputs(_call_children([(text, instruction)], None, output)[0]))


def subcall_batched(items, instruction=None, output=None):
    """Run many children at once: items are (text, instruction) pairs, or texts that share ``instruction``"""
    return [_single_value(answer) for answer in _call_children(items, instruction, output)]


def _call_children(items, instruction, output):
    shapes = _class_shapes(output or "")
    sent = []
    for item in items:
        if isinstance(item, (tuple, list)):
            text, wanted = item
        else:
            text, wanted = item, instruction
        sent.append({"text": _text_or_place(text), "instruction": wanted})
    results = repl["__rlm_subcall__"](items=sent, output=output, types=shapes)
    return [_outputs_or_error(result, shapes) for result in results]


def _single_value(answer):
    values = answer.__dict__ if isinstance(answer, _Outputs) else None
    if values and len(values) == 1:
        return next(iter(values.values()))
    return answer


def _text_or_place(text):
    """Send a large piece of the main context as its position: the host already has the text."""
    text = _plain_value(text)
    if isinstance(text, str) and isinstance(_whole, str) and len(text) > 100_000:
        start = _whole.find(text)
        if start >= 0:
            return {"start": start, "end": start + len(text)}
    return text


class _Field:
    """The declaration of a field: its default or default factory; without either it is required."""

    def __init__(self, default=..., *, default_factory=None, **facts):
        self.required = default is ... and default_factory is None
        self.make = default_factory or (lambda: _copy.deepcopy(default))


class _BaseModel:
    """Declares typed fields; instances take them as keywords."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__()
        for name, value in list(vars(cls).items()):
            if isinstance(value, _Field) and value.required:
                delattr(cls, name)

    def __init__(self, **values):
        kind = type(self)
        names = {}
        for base in reversed(kind.__mro__):
            names |= _inspect.get_annotations(base)
        if unknown := sorted(values.keys() - names):
            raise TypeError(f"{kind.__name__} has no fields {unknown}")
        if missing := [name for name in names if name not in values and not hasattr(kind, name)]:
            raise TypeError(f"{kind.__name__} misses {missing}")
        for name in names:
            if name in values:
                value = values[name]
            else:
                value = _copy.deepcopy(getattr(kind, name))
            if isinstance(value, _Field):
                self.__dict__[name] = value.make()
            else:
                self.__dict__[name] = value

    @classmethod
    def model_validate(cls, values):
        """Return an instance with these fields."""
        if isinstance(values, cls):
            return values
        return cls(**values)

    def model_dump(self):
        """Return the fields as a dict."""
        values = dict(vars(self))
        for name, value in values.items():
            if hasattr(value, "model_dump"):
                values[name] = value.model_dump()
        return values

    def __repr__(self):
        return type(self).__name__ + "(" + ", ".join(f"{k}={v!r}" for k, v in vars(self).items()) + ")"

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)


def _stand_in():
    """Return a minimal stand-in for pydantic that can declare the shape of an answer."""
    module = _types_module.ModuleType("pydantic")
    _BaseModel.__name__ = _BaseModel.__qualname__ = "BaseModel"
    module.BaseModel, module.Field = _BaseModel, _Field
    return module


class _Signature:
    """A signature with instructions, as made by ``dspy.Signature(text, instructions)``."""

    def __init__(self, signature, instructions=None):
        self.signature, self.instructions = signature, instructions


class _Agent:
    """A sub-agent like those in the REPL of DSPy's RLM, built on the functions here."""

    def __init__(self, signature, **options):
        if isinstance(signature, str):
            signature = _Signature(signature)
        if not isinstance(signature, _Signature):
            raise TypeError("give the signature as a string, such as 'question -> answer'")
        if options.pop("tools", None):
            raise TypeError("a sub-agent here takes no tools; call them from your own code")
        if options:
            print(f"[dspy.{type(self).__name__} ignores {', '.join(options)} here]")
        self.signature, self.instructions = signature.signature, signature.instructions


class _Predict(_Agent):
    """Answers a signature with one call."""

    def __call__(self, **inputs):
        return _checked_outputs(predict_batched(self.signature, [inputs], self.instructions)[0])


class _ChainOfThought(_Agent):
    """Answers a signature with one call that reasons first."""

    def __call__(self, **inputs):
        before, _, outputs = self.signature.partition("->")
        signature = f"{before}-> reasoning, {outputs}"
        return _checked_outputs(predict_batched(signature, [inputs], self.instructions)[0])


class _RLM(_Agent):
    """Lets a child with a REPL of its own answer a signature; its inputs are variables there."""

    def __call__(self, **inputs):
        shapes = _class_shapes(self.signature)
        sent = {name: _text_or_place(value) for name, value in inputs.items()}
        call = repl["__rlm_program__"]
        result = call(signature=self.signature, types=shapes, inputs=sent, instruction=self.instructions)
        return _checked_outputs(_outputs_or_error(result, shapes))


def _dspy_module():
    """Return a minimal stand-in for DSPy that supports sub-agents."""
    module = _types_module.ModuleType("dspy")
    for kind in (_Signature, _Predict, _ChainOfThought, _RLM):
        kind.__name__ = kind.__qualname__ = kind.__name__.removeprefix("_")
        setattr(module, kind.__name__, kind)

    def missing(name):
        raise AttributeError(f"dspy here has Predict, ChainOfThought, RLM and Signature only, not {name}")

    module.__getattr__ = missing
    return module


_FUNCTIONS = (llm_query, llm_query_batched, predict, predict_batched, subcall, subcall_batched)
for function in _FUNCTIONS:
    function.host_call = True  # so that a cell may await it
repl.update({function.__name__: function for function in _FUNCTIONS if function.__name__ not in taken})
if "pydantic" not in _sys.modules:
    _sys.modules["pydantic"] = _stand_in()
if "dspy" not in _sys.modules:
    _sys.modules["dspy"] = _dspy_module()
if "dspy" not in repl:
    repl["dspy"] = _sys.modules["dspy"]
