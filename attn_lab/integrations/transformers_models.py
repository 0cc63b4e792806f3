"""Which models of transformers no `attn_implementation` reaches, judged by the classes that each is made of."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from types import FunctionType

from torch import nn
from transformers import PreTrainedModel

INTERFACE = {"ALL_ATTENTION_FUNCTIONS", "AttentionInterface"}
PRODUCTS = {"matmul", "einsum", "bmm", "baddbmm", "MatMult"}
OTHER = {"_init_weights"}  # names modules of every kind, whether or not the model has them
ONLY_FOR = "_attn_implementation in"


@cache
def unreachable(model: type[PreTrainedModel]) -> str | None:
    """Why attention in `model` is not wholly what AttentionInterface names, or None where it is.

    A file of transformers may hold both kinds of attention, so what counts is which classes the model is built of.
    A class without readable source is taken to use the interface.
    """
    used_by = {part: words(part) for part in parts(model) if not issubclass(part, PreTrainedModel)}
    for part, used in used_by.items():
        if ONLY_FOR in used:
            return f"{part.__name__} selects keys by itself, for the implementations that it knows by name"
    by_itself = [part for part, used in used_by.items() if _attends(used) and not used & INTERFACE]
    refused = [part for part in by_itself if "attention_mask" in inspect.signature(part.forward).parameters]
    if not any(used & INTERFACE for used in used_by.values()):
        refused += [part for part in by_itself if "Attention" in part.__name__]
    return f"{refused[0].__name__} computes attention by itself, not by AttentionInterface" if refused else None


def _attends(used: set[str]) -> bool:
    """Whether these words are those of attention itself: a softmax of products, or the function of torch's."""
    return "scaled_dot_product_attention" in used or ("softmax" in used and bool(used & PRODUCTS))


def parts(model: type[nn.Module]) -> list[type[nn.Module]]:
    """All classes of modules that the source of `model` names, and theirs: `model` first.

    A model with a configuration of its own is judged where it is made, for it may be given another implementation.
    """
    found: dict[type[nn.Module], None] = {model: None}
    waiting, own = [model], getattr(model, "config_class", None)
    while waiting:
        for named in _named(waiting.pop()):
            apart = issubclass(named, PreTrainedModel) and getattr(named, "config_class", None) is not own
            if named not in found and not apart:
                found[named] = None
                waiting.append(named)
    return list(found)


def _named(part: type[nn.Module]) -> Iterator[type[nn.Module]]:
    """Classes of modules that the methods of `part` name, also as the values of a dict."""
    for module, method in _methods(part):
        for name in _words_in(method):
            value = vars(sys.modules[module]).get(name)
            for each in value.values() if isinstance(value, dict) else [value]:
                if inspect.isclass(each) and issubclass(each, nn.Module) and not each.__module__.startswith("torch."):
                    yield each


def words(part: type[nn.Module]) -> set[str]:
    """What the methods of `part` name, and the functions that they call."""
    used: set[str] = set()
    for module, method in _methods(part):
        for name in _words_in(method):
            used.add(name)
            value = vars(sys.modules[module]).get(name)
            if isinstance(value, FunctionType) and value.__name__ in (defined := _defined(value.__module__)):
                used |= _words_in(defined[value.__name__])
    return used


def _methods(part: type[nn.Module]) -> list[tuple[str, ast.AST]]:
    """Each method as the class resolves it, with the name of the module that it is written in."""
    methods: dict[str, tuple[str, ast.AST]] = {}
    for owner in part.__mro__:
        if owner in (nn.Module, PreTrainedModel):
            break
        definition = _defined(owner.__module__).get(owner.__name__)
        for statement in getattr(definition, "body", []):
            if isinstance(statement, ast.FunctionDef) and statement.name not in OTHER:
                methods.setdefault(statement.name, (owner.__module__, statement))
    return list(methods.values())


@cache
def _words_in(function: ast.AST) -> frozenset[str]:
    """Names and attributes in a body, without annotations and decorators; of operators, those that are asked for."""
    used = set()
    for node in (node for statement in getattr(function, "body", []) for node in ast.walk(statement)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                used.add("softmax" if name == "Softmax" else name)
            case ast.BinOp(op=ast.MatMult()):
                used.add("MatMult")
            case ast.Compare(left=ast.Attribute(attr="_attn_implementation"), ops=[ast.In() | ast.NotIn()]):
                used.add(ONLY_FOR)
    return frozenset(used)


@cache
def _defined(module: str) -> dict[str, ast.AST]:
    """Classes and functions at the top of a module, by name; none where its source cannot be read."""
    if module.startswith("torch."):
        return {}
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return {}
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
